"""Models of the Hugging Face hub, from local folders: safetensors only, nothing is downloaded.

A checkpoint of ours holds their weights among its own; of such a folder it keeps a copy without weights (`keep`), so that
it can be carried to another machine.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Mapping

import torch
from transformers import AutoConfig, PreTrainedModel

FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
KEPT = "pretrained"  # folder of a checkpoint
HOLLOW = "weights_are_in_the_checkpoint"  # file that says so


class PretrainedError(ValueError):
    """A folder that holds no model that can be taken; the message says what is needed."""


def load(kind: type, path: str) -> PreTrainedModel:
    """A model of a transformers class (`AutoModel` and the like) in float32; with random weights for a folder that a
    checkpoint of ours keeps, which brings them. Raises PretrainedError."""
    if not path or not Path(path).is_dir():
        raise PretrainedError(f"path {path!r}: a folder with a model in the Hugging Face hub's format is needed (config.json, "
                              "*.safetensors); nothing is downloaded")
    try:
        if (Path(path) / HOLLOW).is_file():
            return kind.from_config(AutoConfig.from_pretrained(path, local_files_only=True), dtype=torch.float32)
        return kind.from_pretrained(path, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    except OSError as error:
        raise PretrainedError(f"{path}: {error}") from error


def keep(config: Any, folder: Path, name: str = "") -> Any:
    """A model config whose paths are those of copies, without weights, in a checkpoint's folder."""
    if isinstance(config, Mapping):
        kept = {key: keep(value, folder, f"{name}.{key}".strip(".")) for key, value in config.items()}
        if "_target_" in config and "path" in config:
            kept["path"] = _copied(Path(config["path"]), folder, name)
        return kept
    return config


def _copied(source: Path, folder: Path, name: str) -> str:
    copy = folder / KEPT / name
    if source.resolve() != copy.resolve():
        copy.mkdir(parents=True, exist_ok=True)
        for file in (source / known for known in FILES if (source / known).is_file()):
            shutil.copyfile(file, copy / file.name)
        (copy / HOLLOW).touch()
    return f"{KEPT}/{name}"


def found(config: Any, folder: Path) -> Any:
    """The inverse of `keep`: paths into the checkpoint's folder as they are here."""
    if isinstance(config, Mapping):
        here = {key: found(value, folder) for key, value in config.items()}
        if "_target_" in config and str(config.get("path", "")).startswith(f"{KEPT}/"):
            here["path"] = str(folder / config["path"])
        return here
    return config
