"""Several processes at once: the same results, and none outlives the one that began them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.little_workers import Broken, Killed, Place, Times
from training.workers import WorkerError, allocator, each


def test_processes_give_what_one_process_gives():
    alone, together = (dict(each(Times, (3,), range(6), workers)) for workers in (1, 2))
    assert alone == together == {job: 3 * job for job in range(6)}


def test_nothing_to_do_is_done_at_once():
    assert list(each(Broken, (), [], 2)) == list(each(Broken, (), [], 1)) == []


def test_a_single_job_is_not_done_in_the_main_process_either():
    """What it sets there would stay: once, a round of practice left training with one thread."""
    assert dict(each(Place, (), [1], 2))[1] != os.getpid() == dict(each(Place, (), [1], 1))[1]


def test_what_a_worker_raises_reaches_the_main_process():
    with pytest.raises(ZeroDivisionError):
        list(each(Broken, (), [1, 2, 3], 2))


EACH = """from training.workers import each
from tests.little_workers import Place
if __name__ == '__main__':
    for _, place in each(Place, (0.3,), [1, 1, 1, 1, 300, 300, 300, 300], 2): print(place, flush=True)"""
TOGETHER = """from training.workers import together
from tests.little_workers import linger_together
if __name__ == '__main__': together(linger_together, (100.0,), 2)"""


@pytest.mark.parametrize("code, lines", ((EACH, 4), (TOGETHER, 2)), ids=("each", "together"))
@pytest.mark.parametrize("how, before", ((signal.SIGKILL, ""), (signal.SIGINT, ""), (signal.SIGTERM, ""),
                                         (signal.SIGTERM, "trap '' INT; ")), ids=("KILL", "INT", "TERM", "TERM-background"))
def test_workers_end_at_once_with_the_process_that_is_ended(how, before, code, lines):
    """Also where it was started by a script in the background: there a shell has SIGINT ignored."""
    command = ["sh", "-c", f'{before}exec "$0" -c "$1"', sys.executable, code]
    main = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    places = {int(main.stdout.readline()) for _ in range(lines)}
    main.send_signal(how)
    assert main.wait(10.0) != 0
    end = time.monotonic() + 10.0
    while any(alive(place) for place in places) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(alive(place) for place in places)


@pytest.mark.skipif(allocator() is None, reason="no tcmalloc: apt-get install libtcmalloc-minimal4")
def test_who_trains_together_takes_memory_from_tcmalloc():
    code = TOGETHER.replace("linger_together, (100.0,)", "linked_together, ()").replace("linger", "linked")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert allocator() in done.stdout and "libc.so" in done.stdout


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/status")  # where there is one, a zombie is told by it
    return not (status.exists() and "State:\tZ" in status.read_text())


def test_a_killed_worker_is_said():
    with pytest.raises(WorkerError, match="run again"):
        list(each(Killed, (), [1, 2, 3], 2))
