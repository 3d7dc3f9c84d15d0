"""Camera frames a second: a control step of the tabletop (physics, sound, both cameras) against Meta-World's, at 128 px.

    python benchmarks/env_speed.py                              # the tabletop alone
    python benchmarks/env_speed.py --peer VENV/bin/python       # an interpreter with `pip install metaworld`

Each side runs in a process of its own, by turns, `--rounds` times; the medians and their ratio are printed. Meta-World
renders with its defaults; a frame there is one `step` and one `render`, here half of a step, which reads two cameras.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SIDE, WARMUP = 128, 20


def tabletop(steps: int) -> float:
    """Frames a second of soma/Tabletop-v0 under random actions."""
    import gymnasium as gym

    import envs  # noqa: F401

    env = gym.make("soma/Tabletop-v0", task="pick_up", image_size=SIDE, disable_env_checker=True)
    return 2 * steps_a_second(env, steps, lambda: None)


def metaworld(steps: int) -> float:
    """Frames a second of Meta-World's pick-place-v3."""
    import gymnasium as gym
    import metaworld  # noqa: F401

    env = gym.make("Meta-World/MT1", env_name="pick-place-v3", render_mode="rgb_array", camera_name="corner2",
                   width=SIDE, height=SIDE, disable_env_checker=True)
    return steps_a_second(env, steps, env.render)


def steps_a_second(env, steps: int, look) -> float:
    env.action_space.seed(0)
    env.reset(seed=0)
    spent = 0.0
    for n in range(WARMUP + steps):
        begin = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        look()
        spent += (time.perf_counter() - begin) * (n >= WARMUP)
        if terminated or truncated:
            env.reset(seed=n)
    return steps / spent


def measure(python: str, side: str, steps: int) -> float:
    words = [python, __file__, "--side", side, "--steps", str(steps)]
    paths = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])} if side == "tabletop" else {}
    environment = {"MUJOCO_GL": "egl"} | os.environ | paths
    out = subprocess.run(words, env=environment, capture_output=True, text=True)
    if out.returncode:
        sys.exit(f"{side} with {python} failed:\n{out.stderr[-2000:]}")
    return json.loads(out.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="an interpreter that has Meta-World")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("tabletop", "metaworld"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps({"tabletop": tabletop, "metaworld": metaworld}[args.side](args.steps)))
        return
    sides = {"tabletop": sys.executable} | ({"metaworld": args.peer} if args.peer else {})
    rates = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side, python in sides.items():
            rates[side].append(measure(python, side, args.steps))
    for side, measured in rates.items():
        print(f"{side:10s}{statistics.median(measured):8.1f} camera frames/s   ({', '.join(f'{r:.1f}' for r in measured)})")
    if args.peer:
        print(f"ratio {statistics.median(rates['tabletop']) / statistics.median(rates['metaworld']):.1f}")


if __name__ == "__main__":
    main()
