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
from training.scores import percent, percents, pooled_interval

LONGEST = 90.0  # s an episode may take
EPISODE = re.compile(r" (\d+): (success|failure)$", re.M)


@contextmanager
def node(name: str, log: Path, *words: str):
    process = subprocess.Popen([sys.executable, "-m", f"ros_nodes.{name}_node", "--ros-args", *words], stderr=log.open("a"),
                               env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)


def main() -> int:
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
    lockstep, results, records = ("-p", f"lockstep:={'false' if asked.realtime else 'true'}"), {}, []
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
            own = [{"task": task, "seed": int(seed), "outcome": end} for seed, end in EPISODE.findall(log.read_text())]
            good, missing = sum(r["outcome"] == "success" for r in own), asked.episodes - len(own)
            results[task] = {"successes": good, "episodes": len(own), "errors": missing}
            tqdm.write(f"{task:18s} {good}/{len(own)}, {missing} not ended")
            (asked.out / "results.json").write_text(json.dumps(results, indent=1))
            records += own
    good, missing = (sum(r[key] for r in results.values()) for key in ("successes", "errors"))
    print(f"all {good}/{len(records)}, {percent(good / max(len(records), 1))} ({percents(pooled_interval(records))}), "
          f"{missing} not ended")
    return int(missing > 0)


if __name__ == "__main__":
    raise SystemExit(main())
