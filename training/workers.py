"""The same job in several processes: each makes its worker once, then takes one job after the other."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Iterator, Sequence

_worker: dict[str, Any] = {}  # this process's: how it is made, and it


class WorkerError(RuntimeError):
    """A worker process is gone; the message says what to do."""


def each(make: Callable[..., Callable], args: tuple, jobs: Sequence, workers: int) -> Iterator[tuple[Any, Any]]:
    """(job, make(*args)(job)) of every job, in the order in which they end. With one worker, in this process; with more,
    always in others, for what a job sets (PyTorch's threads) is set for its whole process."""
    if workers <= 1:
        work = make(*args)
        yield from ((job, work(job)) for job in jobs)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # taken over by the workers
    spawn = multiprocessing.get_context("spawn")  # never fork after a GL context or a video was opened
    with ProcessPoolExecutor(min(workers, len(jobs)), spawn, _start, (make, args)) as pool:
        running = {pool.submit(_run, job): job for job in jobs}
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise WorkerError("a worker process was killed (out of memory?): run again to go on") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(make: Callable[..., Callable], args: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides; the running job is finished
    _worker["make"], _worker["args"] = make, args


def _run(job: Any) -> Any:
    if "work" not in _worker:  # only now, so that what goes wrong with it reaches the main process
        _worker["work"] = _worker["make"](*_worker["args"])
    return _worker["work"](job)
