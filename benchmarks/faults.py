"""What the robot does when something breaks: simulated robot, supervisor and agent as processes, in real time.

    python -m benchmarks.faults [--trials 20] [--faults "agent killed,camera gone"] [--out outputs/faults]

This process stands between the others: the robot's topics and the agent's trajectories pass through it, so that it can
break them. It records the commands and joint states on the wire and judges by them alone: whether every command keeps
the limits, when the fastest stop that the limits allow began (each command is compared with the stop that ruckig plans from
the one before), and when the robot stood.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from agent.perception import FROZEN, MOVED
from benchmarks.fault_bench import BOOL, EMPTY, IN_TIME, ROBOT, STRING, Bench, Fault, Trial, bench
from ros_nodes import convert
from ros_nodes.interfaces import message


def changed(topics: tuple[str, ...], change: Callable) -> Callable[[Bench], None]:
    return lambda bench: bench.through.update(dict.fromkeys(topics, change))


def shifted(seconds: float) -> Callable:
    def shift(value) -> list:
        convert.set_time(value.header.stamp, convert.seconds(value.header.stamp) + seconds)
        return [value]

    return shift


def frozen(bench: Bench) -> None:
    kept, start = [], bench.record.joints[-1][2] if bench.record.joints else None

    def freeze(image) -> list:
        nonlocal start
        kept.append(image.data)
        image.data = kept[0]
        start = bench.record.joints[-1][2] if start is None and bench.record.joints else start
        if len(kept) > FROZEN and start is not None and np.abs(bench.record.joints[-1][2] - start).max() > MOVED:
            bench.notice()
        return [image]

    bench.through["camera/front/image_raw"] = freeze


def not_a_number(bench: Bench) -> None:
    def change(trajectory) -> list:
        for point in trajectory.points:
            point.positions[2] = float("nan")
            bench.notice()
        return [trajectory]

    bench.through["agent/trajectory"] = change


def zeroed(state) -> list:
    """As of a driver that began anew, or an encoder that failed."""
    state.position = array("d", bytes(8 * len(state.position)))
    return [state]


def far_away(trajectory) -> list:
    for point in trajectory.points[1:]:
        point.positions[1] += 4.0
    return [trajectory]


def flood(bench: Bench) -> None:
    for n in range(2000):
        bench.say(message(STRING)(f"press button {n}"))


def garbage(bench: Bench) -> None:
    """Messages that hold what they should not, and datagrams that are no messages at all."""
    joints, image, wish, audio = (message(kind)() for kind in (convert.JOINTS, convert.IMAGE, convert.TRAJECTORY, convert.AUDIO))
    joints.name, joints.position = ["nose", "joint_1"], array("d", [float("nan")])
    image.width, image.height, image.encoding, image.data = 2**31, 7, "rgb8", bytes(11)
    wish.joint_names, wish.points = ["joint_1"], [message(convert.POINT)(positions=array("d", [1e300]))] * 3
    audio.sample_rate, audio.channels, audio.data = 7, 200, array("h", [1, 2, 3])
    words = message(STRING)("\x00 \U0001f916 " * 10000)
    sent = [(convert.JOINTS, "joint_states", joints), (convert.IMAGE, FRONT, image),
            (convert.TRAJECTORY, "agent/trajectory", wish), (convert.AUDIO, "audio", audio),
            (STRING, "episode", words), (convert.TRAJECTORY, "joint_commands", wish)]
    writers = [(bench.node.publisher(kind, topic), value) for kind, topic, value in sent]
    bench.wait(0.3)  # until they are known
    rng, out = np.random.default_rng(0), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    first = 7400 + 250 * int(os.environ["ROS_DOMAIN_ID"])  # port of the domain (DDSI-RTPS 9.6.1.1)
    for _ in range(50):
        for write, value in writers:
            write(value)
        for port in range(first, first + 60):
            out.sendto(b"RTPS" + rng.bytes(60), ("127.0.0.1", port))


def pressed(bench: Bench) -> None:
    bench.button(message(BOOL)(True))


def nothing(bench: Bench) -> None:
    pass


def killed(name: str) -> Callable[[Bench], None]:
    return lambda bench: bench.signal(name, signal.SIGKILL)


def link(state: str) -> Callable[[Bench], None]:
    """The network between the agent and the others, up or down."""
    def switch(bench: Bench) -> None:
        subprocess.run(["ip", "-n", bench.namespace, "link", "set", f"{bench.namespace}b", state], check=True)

    return switch


FRONT, CAMERAS, ALL = "camera/front/image_raw", tuple(ROBOT)[:2], tuple(ROBOT)
FAULTS = {
    "agent killed": Fault(killed("agent"), lambda bench: bench.restart("agent"), 0.15),
    "agent hung": Fault(lambda b: b.signal("agent", signal.SIGSTOP), lambda b: b.signal("agent", signal.SIGCONT), 0.15),
    "camera frozen": Fault(frozen, nothing),
    "camera gone": Fault(changed((FRONT,), lambda image: []), nothing, 0.1),
    "late observations": Fault(lambda bench: [bench.delay(topic, 0.5) for topic in CAMERAS], nothing, 0.1),
    "joint states gone": Fault(changed(("joint_states",), lambda state: []), nothing, 0.06),
    "joint states leap": Fault(changed(("joint_states",), zeroed), nothing, 0.02),
    "NaN action": Fault(not_a_number, nothing),
    "action outside limits": Fault(changed(("agent/trajectory",), far_away), nothing, brakes=False),
    "clock jumps back": Fault(changed(ALL, shifted(-3600.0)), nothing, 0.06),
    "clock jumps ahead": Fault(changed(ALL, shifted(3600.0)), nothing, 0.06),
    "safety node restarted": Fault(lambda bench: bench.restart("safety"), nothing, brakes=False),
    "safety node ended": Fault(lambda bench: bench.signal("safety", signal.SIGINT), lambda bench: bench.start("safety")),
    "flood of instructions": Fault(flood, nothing, brakes=False),
    "malformed messages": Fault(garbage, nothing, brakes=False),
    "emergency stop": Fault(pressed, lambda bench: bench.release(message(EMPTY)())),
    "network partition": Fault(link("down"), link("up"), 0.15),
}
PARTITION = "network partition"  # needs a network of its own


# ---- the table


def summary(fault: Fault, trials: list[Trial]) -> dict:
    def most(values) -> float | None:
        return max((round(x, 3) for x in values if x is not None), default=None)

    late = [None if t.braking is None else t.braking - t.noticeable for t in trials]
    in_time = sum(x is not None and x <= IN_TIME for x in late)
    return {"trials": len(trials), "braked_in_time": in_time if fault.brakes else None,
            "braking_after_noticeable_s": most(late) if fault.brakes else None,
            "standing_after_fault_s": most(t.standing for t in trials) if fault.brakes else None,
            "worst_share_of_a_limit": most(t.worst for t in trials), "fastest_measured": most(t.fastest for t in trials),
            "resumed": sum(t.resumed for t in trials), "recovered": sum(t.recovered for t in trials)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--faults", default=",".join(FAULTS), help="by name, comma separated")
    parser.add_argument("--out", type=Path, default=Path("outputs/faults"), help="folder for faults.json and the logs")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    table = {}
    for name in asked.faults.split(","):
        with bench(asked.out / name.replace(" ", "_"), name == PARTITION) as made:
            trials = [made.trial(FAULTS[name]) for _ in tqdm(range(asked.trials), desc=name)]
        table[name] = summary(FAULTS[name], trials)
        tqdm.write(f"{name}: {table[name]}")
        (asked.out / "faults.json").write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
