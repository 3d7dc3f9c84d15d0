"""From a camera's stamp to the first command that knows of its picture: simulated robot, supervisor and agent as processes, in
real time, cameras at 30 Hz.

    python -m benchmarks.ros_latency [--minutes 2] [--task place_in] [--out outputs/ros_latency]

An observer beside them hears what is on the wire and tells the shares, each at its own median: until the picture had come,
until the agent's trajectory had come (it waits for the next joint state, then decides), until the supervisor's next command. A
decision amid which an episode ends has no such command and does not count. A line a minute shows whether latency or memory
grow.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.ros_success import node
from ros_nodes import convert
from ros_nodes.dds import Node

SHARES = ("picture", "trajectory", "command")


class Observer:
    """rows: (picture, trajectory, command, all), ms, of each decision."""

    def __init__(self):
        self.node, self.came, self.open, self.rows = Node("observer"), {}, None, []
        self.node.subscribe(convert.IMAGE, "camera/front/image_raw", self.picture, "sensor")
        self.node.subscribe(convert.TRAJECTORY, "agent/trajectory", self.trajectory, "stream")
        self.node.subscribe(convert.TRAJECTORY, "joint_commands", self.command, "stream")
        self.node.subscribe("std_msgs/msg/Empty", "robot_reset", self.reset, "reliable")

    def reset(self, _) -> None:
        self.came.clear()
        self.open = None

    def picture(self, image) -> None:
        self.came[convert.seconds(image.header.stamp)] = time.time()
        while len(self.came) > 100:
            self.came.pop(next(iter(self.came)))

    def trajectory(self, trajectory) -> None:
        stamp = convert.seconds(trajectory.header.stamp)
        if trajectory.points and stamp in self.came:
            self.open = (stamp, self.came[stamp], time.time())

    def command(self, command) -> None:
        """The first one that was made after the trajectory had come."""
        if self.open is not None and convert.seconds(command.header.stamp) >= self.open[2]:
            stamp, came, decided = self.open
            times = np.array([stamp, came, decided, time.time()])
            self.rows.append([*1e3 * np.diff(times), 1e3 * (times[-1] - times[0])])
            self.open = None


def memory(pid: int) -> float:
    """MB that a process has in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def summary(rows: list) -> dict[str, float]:
    table = np.array(rows)
    out = {name: float(np.median(column)) for name, column in zip(SHARES, table.T)}
    return {name: round(value, 1) for name, value in (out | {"p50": float(np.median(table[:, -1])),
                                                              "p99": float(np.percentile(table[:, -1], 99))}).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--task", default="place_in")
    parser.add_argument("--out", type=Path, default=Path("outputs/ros_latency"), help="folder for latency.json and the logs")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    words = {"safety": (), "agent": (), "sim": ("-p", f"task:={asked.task}")}
    observer, lines = Observer(), []
    with ExitStack() as stack:
        running = {name: stack.enter_context(node(name, asked.out / f"{name}.log", *more)) for name, more in words.items()}
        observer.node.spin(lambda: bool(observer.rows))
        end = time.time() + 60 * asked.minutes
        while time.time() < end:
            first, minute = len(observer.rows), min(time.time() + 60, end)
            observer.node.spin(lambda: time.time() > minute)
            line = summary(observer.rows[first:]) | {f"{n}_MB": round(memory(p.pid)) for n, p in running.items()}
            lines.append(line | {"decisions": len(observer.rows) - first})
            print(lines[-1], flush=True)
            (asked.out / "latency.json").write_text(json.dumps({"all": summary(observer.rows), "minutes": lines}, indent=1))
    print("all", summary(observer.rows))


if __name__ == "__main__":
    main()
