"""Makes a trained checkpoint small enough to ship: weights in half precision, statistics and text as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

import torch

from agent import checkpoint
from training.settings import SettingsError, make_folder


def export(weights: str | Path, out: str | Path) -> int:
    """Write `weights` to the new folder `out` in float16; gives the size of the weights' file in bytes. Raises CheckpointError
    and SettingsError."""
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise SettingsError(f"out={out}: it is there already, and nothing is overwritten; take another out=FOLDER")
    model, processor, page = checkpoint.load(weights)
    half = out.with_name(f"{out.name}.part")
    make_folder(half)
    checkpoint.save(half, model, page["model"], processor.tokenizer, torch.float16, page["notes"])
    half.replace(out)
    return (out / "model.safetensors").stat().st_size


def main(cfg: Mapping[str, Any]) -> int:
    size = export(cfg["weights"], cfg["out"])
    print(f"{cfg['out']}: {size / 1e6:.1f} MB")
    return 0
