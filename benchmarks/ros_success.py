"""Success of the agent through its nodes: simulated robot, supervisor and agent as processes.

    python -m benchmarks.ros_success [--tasks reach,place_in] [--episodes 20] [--realtime] [--out outputs/ros_success]

In lock-step on the simulation's clock, or in real time. With rclpy sourced the nodes run on it, else over DDS. Compare with
`soma eval split=new_scenes seed=1000 decide_every=3` of the same tasks and episodes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from envs import TASK_NAMES
from training.scores import wilson

LONGEST = 90.0  # s an episode may take
EPISODE = re.compile(r": (success|failure)$", re.M)


@contextmanager
def node(name: str, log: Path, *words: str):
    process = subprocess.Popen([sys.executable, "-m", f"ros_nodes.{name}_node", "--ros-args", *words], stderr=log.open("a"),
                               env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASK_NAMES), help="by name, comma separated")
    parser.add_argument("--episodes", type=int, default=20, help="a task")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--weights", default="pocket")
    parser.add_argument("--instruct", default="text")
    parser.add_argument("--out", type=Path, default=Path("outputs/ros_success"), help="folder for results.json and the logs")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    lockstep, results = ("-p", f"lockstep:={'false' if asked.realtime else 'true'}"), {}
    with node("safety", asked.out / "safety.log", *lockstep), \
            node("agent", asked.out / "agent.log", "-p", f"weights:={asked.weights}", *lockstep):
        for task in tqdm(asked.tasks.split(",")):
            log = asked.out / f"sim_{task}.log"
            log.unlink(missing_ok=True)
            with node("sim", log, *lockstep, *(w for name, value in (
                    ("task", task), ("episodes", asked.episodes), ("seed", asked.seed), ("instruct", asked.instruct))
                    for w in ("-p", f"{name}:={value}"))) as sim:
                with suppress(subprocess.TimeoutExpired):
                    sim.wait(timeout=LONGEST * asked.episodes)
            ends = EPISODE.findall(log.read_text())
            results[task] = {"successes": ends.count("success"), "episodes": len(ends), "errors": asked.episodes - len(ends)}
            tqdm.write(f"{task:18s} {ends.count('success')}/{len(ends)}, {asked.episodes - len(ends)} not ended")
            (asked.out / "results.json").write_text(json.dumps(results, indent=1))
    good, all_ = (sum(r[key] for r in results.values()) for key in ("successes", "episodes"))
    print(f"all {good}/{all_}, {100 * good / max(all_, 1):.0f}%, interval {wilson(good, all_)}")


if __name__ == "__main__":
    main()
