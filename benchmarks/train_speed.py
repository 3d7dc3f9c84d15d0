"""How fast `pocket` is trained here, its loader at work: samples (decisions with their chunks) a second.

    .venv/bin/python benchmarks/train_speed.py data/demos [--steps 200] [--threads 2] [--processes 1] [--batch 8]
                                                          [--workers 1] [--compile]

The median over stretches of 25 steps, without the first, in which the loader starts and the compiler works.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from training import settings, stages

STRETCH = 25  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folders of demonstrations, comma separated")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2, help="in all")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="episodes a step, each with four decisions, in all")
    parser.add_argument("--workers", type=int, default=1, help="loading batches, of each process")
    parser.add_argument("--compile", action="store_true", help="the busiest parts of the model, by torch.compile")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        config = settings.compose("train", [
            f"data={asked.data}", f"out={out}", f"threads={asked.threads}", f"processes={asked.processes}",
            f"stage.batch={asked.batch}", f"stage.schedule.steps={asked.steps}", f"+stage.schedule.log_every={STRETCH}",
            f"stage.schedule.compile={asked.compile}", f"stage.schedule.workers={asked.workers}"])
        stages.train(config)
        lines = (Path(out) / "log.jsonl").read_text().splitlines()[1:]
    speed = statistics.median(json.loads(line)["samples_per_s"] for line in lines)
    print(f"{speed:.0f} samples a second ({asked.threads} threads in {asked.processes} processes, {asked.batch} episodes a step)")


if __name__ == "__main__":
    main()
