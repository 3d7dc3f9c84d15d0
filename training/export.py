"""Makes a trained checkpoint small enough to ship: weights in half precision, statistics and text as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

import torch

from agent import checkpoint
from training.settings import make_folder


def export(weights: str | Path, out: str | Path) -> int:
    """Write `weights` to `out` in float16; gives the size of the weights' file in bytes. Raises CheckpointError and
    SettingsError."""
    model, processor, page = checkpoint.load(weights)
    make_folder(out)
    checkpoint.save(out, model, page["model"], processor.tokenizer, torch.float16, page["notes"])
    return (Path(out) / "model.safetensors").stat().st_size


def main(cfg: Mapping[str, Any]) -> int:
    size = export(cfg["weights"], cfg["out"])
    print(f"{cfg['out']}: {size / 1e6:.1f} MB")
    return 0
