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
LOCAL = {"local_files_only": True, "trust_remote_code": False}


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
            return kind.from_config(AutoConfig.from_pretrained(path, **LOCAL), dtype=torch.float32, trust_remote_code=False)
        return kind.from_pretrained(path, use_safetensors=True, dtype=torch.float32, **LOCAL)
    except (OSError, ValueError) as error:
        raise PretrainedError(f"{path}: {error}") from error


def preprocessor(kind: type, path: str) -> Any:
    """What makes a model's input, of a transformers class (`AutoImageProcessor` and the like), from the model's folder. Raises
    PretrainedError."""
    try:
        return kind.from_pretrained(path, **LOCAL)
    except (OSError, ValueError) as error:
        raise PretrainedError(f"{path}: {error}") from error


def keep(config: Any, folder: Path, name: str = "") -> Any:
    """A model config whose paths are those of copies, without weights, in a checkpoint's folder. Raises PretrainedError where
    there is nothing to copy any more."""
    if isinstance(config, Mapping):
        kept = {key: keep(value, folder, f"{name}.{key}".strip(".")) for key, value in config.items()}
        if "_target_" in config and "path" in config:
            kept["path"] = _copied(Path(config["path"]), folder, name)
        return kept
    return config


def _copied(source: Path, folder: Path, name: str) -> str:
    copy = folder / KEPT / name
    if not (source / "config.json").is_file() and not (copy / "config.json").is_file():
        raise PretrainedError(f"{source} has no config.json any more: put the folder back, its config belongs to the checkpoint")
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
