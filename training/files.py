"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Who reads the file meanwhile, or goes on after a kill, finds all of it or what was there before."""
    draft = file.with_name(f"{file.name}.{os.getpid()}.tmp")  # several may begin at once
    draft.write_text(text)
    draft.replace(file)
