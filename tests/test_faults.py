"""What the robot does when something breaks, with real processes, judged by what is on the wire (benchmarks/faults.py)."""

import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="cyclonedds is not installed: pip install 'soma-agent[ros]'")

from benchmarks.fault_bench import IN_TIME, PERIOD, bench, first_of_stop, ip, network, worst  # noqa: E402
from benchmarks.faults import FAULTS, PARTITION  # noqa: E402
from envs.arm import PANDA, JointState  # noqa: E402
from policies.limits import Limits  # noqa: E402
from policies.safety import Supervisor  # noqa: E402


def networks() -> bool:
    try:
        with network():
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_breaks_no_limit_is_braked_for_in_time_and_overcome(name, tmp_path, monkeypatch):
    if name == PARTITION and not networks():
        pytest.skip("network namespaces need root and iproute2")
    monkeypatch.setenv("ROS_DOMAIN_ID", "0")  # restored at the end
    fault = FAULTS[name]
    with bench(tmp_path, name == PARTITION) as made:
        trials = [made.trial(fault) for _ in range(3)]
    for trial in trials:
        assert trial.worst <= 1.0 + 1e-6 and trial.recovered
        if fault.brakes:
            assert trial.braking is not None and trial.braking - trial.noticeable <= IN_TIME
            assert trial.standing is not None and trial.standing < 1.0


def test_what_a_killed_bench_left_of_its_network_does_not_stand_in_the_way_of_the_next():
    if not networks():
        pytest.skip("network namespaces need root and iproute2")
    code = "from benchmarks.fault_bench import network\nwith network() as name: print(name, flush=True); input()"
    killed = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    left = killed.stdout.readline().strip()
    with network() as name:
        assert {left, name} <= set(ip("netns", "list").split())  # of a process that lives
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with network() as name:
        assert name in ip("netns", "list").split() and left not in ip("netns", "list").split()


def commands(stop_at: float, share: float = 1.0) -> list[np.ndarray]:
    """Of a supervisor that is stopped in motion."""
    home = JointState(0.0, np.array(PANDA.home), 0.08)
    supervisor = Supervisor(PANDA, Limits.of(PANDA, share=share), home, PERIOD)
    supervisor.motion = supervisor.motion._replace(dq=np.full(7, 0.5))
    rows = []
    for n in range(100):
        if n == round(stop_at / PERIOD):
            supervisor.stop(n * PERIOD, "test")
        rows.append(supervisor.step(n * PERIOD).motion if n >= round(stop_at / PERIOD) else drift(supervisor))
    return [np.array(column) for column in zip(*rows)]


def drift(supervisor: Supervisor):
    motion = supervisor.motion
    supervisor.motion = motion._replace(q=motion.q + PERIOD * motion.dq)
    return supervisor.motion


def test_the_judge_finds_where_the_fastest_stop_begins_and_what_exceeds_a_limit():
    q, dq, ddq = commands(stop_at=0.3)
    assert first_of_stop(q, dq, ddq) == 30 and worst(q, dq, ddq) <= 1.0 + 1e-6
    slow = commands(stop_at=0.3, share=0.5)
    assert first_of_stop(*slow) is None or first_of_stop(*slow) > 31  # it stands, yet not by the fastest stop
    q[50:] += 0.1
    assert worst(q, dq, ddq) > 2.0
    assert first_of_stop(q[:33], dq[:33], ddq[:33]) is None  # it does not stand yet
