"""A checkpoint is a directory: config.json, model.safetensors, tokenizer/. No pickle, and no code from outside.

A config names classes by `_target_`; models from the Hugging Face hub are kept as
agent/pretrained.py says. Only names below `agent.` are built, whatever a checkpoint says.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
from pathlib import Path
from typing import Any, Callable, Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from agent import pretrained
from agent.model import EmbodiedModel
from agent.processor import Processor
from agent.spec import Spec
from agent.tokenizer import load_tokenizer

SHIPPED = Path(__file__).parent / "weights"


class CheckpointError(ValueError):
    """A checkpoint that is missing, incomplete or asks for something that is not ours."""


def build(node: Any) -> Any:
    """A config tree -> the same tree with each {_target_: NAME, **arguments} as a partial of that class or function."""
    if isinstance(node, Mapping):
        values = {key: build(value) for key, value in node.items() if key != "_target_"}
        return _partial(_ours(node["_target_"]), values) if "_target_" in node else values
    if isinstance(node, (list, tuple)):
        return tuple(build(value) for value in node)
    return node


def _partial(target: Callable, arguments: Mapping[str, Any]) -> functools.partial:
    known = inspect.signature(target).parameters
    unknown = sorted(arguments.keys() - known)
    if unknown:
        raise CheckpointError(f"{target.__qualname__} takes no {', '.join(unknown)}; allowed are {', '.join(known)}")
    return functools.partial(target, **arguments)


def _ours(name: str):
    module, _, attribute = name.rpartition(".")
    if not module.startswith("agent."):
        raise CheckpointError(f"_target_ {name!r}: only classes of the agent package may be named in a model config")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise CheckpointError(f"_target_ {name!r}: this version has no {module} ({error})") from error
    if found is None or getattr(found, "__module__", "") != module:
        raise CheckpointError(f"_target_ {name!r}: {module} has no such class or function of its own")
    return found


def new_model(config: Mapping, spec: Spec, tokenizer: PreTrainedTokenizerBase) -> EmbodiedModel:
    """A fresh model from a model config (training/configs/model/*.yaml) for one robot and one tokenizer. Raises
    CheckpointError for a config of which none can be made, agent.pretrained.PretrainedError."""
    make = _partial(EmbodiedModel, build(dict(config)))
    try:
        return make(spec=spec, vocabulary=len(tokenizer))
    except pretrained.PretrainedError:
        raise
    except (AssertionError, TypeError, ValueError) as error:
        raise CheckpointError(f"model: {error}") from error


def save(folder: str | Path, model: EmbodiedModel, config: Mapping, tokenizer: PreTrainedTokenizerBase,
         dtype: torch.dtype | None = None, notes: Mapping | None = None) -> None:
    """Write a checkpoint. dtype: convert floating weights (statistics stay float32) to make the file small."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(name, value, dtype) for name, value in model.state_dict().items()}
    save_file(_without_ties(tensors), folder / "model.safetensors")
    tokenizer.save_pretrained(folder / "tokenizer")
    whole = {"model": pretrained.keep(config, folder), "spec": model.spec.to_dict(), "notes": dict(notes or {})}
    (folder / "config.json").write_text(json.dumps(whole, indent=1))


def _stored(name: str, value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    convert = dtype is not None and value.is_floating_point() and "normalize" not in name
    return value.detach().to("cpu", dtype if convert else value.dtype).contiguous().clone()


def _without_ties(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A tied output embedding is stored once, as the input embedding."""
    tables = [value for name, value in tensors.items() if name.endswith("embed_tokens.weight")]
    return {name: value for name, value in tensors.items() if not name.endswith("lm_head.weight") or not any(
        torch.equal(value, table) for table in tables)}


def find(name: str | Path) -> Path:
    """A shipped name ("pocket") or a directory -> the checkpoint's directory. Raises CheckpointError."""
    for folder in (Path(name), SHIPPED / str(name)):
        if (folder / "model.safetensors").is_file() and (folder / "config.json").is_file():
            return folder
    shipped = sorted(p.name for p in SHIPPED.glob("*") if (p / "config.json").is_file())
    raise CheckpointError(f"no checkpoint at {name!r}: a directory with config.json and model.safetensors is needed, "
                          f"or one of the shipped {shipped}")


def fingerprint(name: str | Path) -> str:
    """The first half of the SHA-256 of all that a checkpoint loads: not of its notes or its card. Raises CheckpointError."""
    folder = find(name)
    written = {key: value for key, value in _written(folder).items() if key != "notes"}
    content = hashlib.sha256(json.dumps(written, sort_keys=True).encode())
    for file in [folder / "model.safetensors", *sorted(path for path in folder.glob("*/**/*") if path.is_file())]:
        content.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return content.hexdigest()[:32]


def page(folder: Path) -> dict:
    """A checkpoint's config.json: {"model", "spec", "notes"}. Raises CheckpointError."""
    written = _written(folder)
    return written | {"model": pretrained.found(written["model"], folder)}


def _written(folder: Path) -> dict:
    try:
        whole = {"notes": {}, **json.loads((folder / "config.json").read_text())}
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is no checkpoint's: {error}") from error
    missing = sorted({"model", "spec"} - whole.keys())
    if missing:
        raise CheckpointError(f"{folder / 'config.json'} is no checkpoint's: it has no {', '.join(missing)}")
    return whole


def load(name: str | Path) -> tuple[EmbodiedModel, Processor, dict]:
    """(model in evaluation mode, its processor, the whole config). Raises CheckpointError."""
    folder = find(name)
    config = page(folder)
    try:
        spec, image_size = Spec.from_dict(config["spec"]), config["model"]["image_size"]
        tokenizer, weights = load_tokenizer(folder / "tokenizer"), load_file(folder / "model.safetensors")
        model = new_model(config["model"], spec, tokenizer)
        floats = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
        missing, unknown = model.load_state_dict(floats, strict=False)
    except KeyError as error:
        raise CheckpointError(f"{folder} cannot be loaded: its config.json has no {error}") from error
    except (OSError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be loaded: {error}") from error
    missing = [name for name in missing if not name.endswith("lm_head.weight")]
    if missing or unknown:
        raise CheckpointError(f"{folder}: weights do not fit the config; missing {missing[:5]}, unknown {unknown[:5]}")
    return model.eval(), Processor(spec, tokenizer, image_size), config


def fit(model: EmbodiedModel, name: str | Path) -> tuple[list[str], list[str]]:
    """Copy into `model` what a checkpoint has under the same name and shape -> (names copied, names left new)."""
    weights = load_file(find(name) / "model.safetensors")
    own = model.state_dict()
    same = {k: v.to(own[k].dtype) for k, v in weights.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(same, strict=False)
    return sorted(same), sorted(set(own) - set(same))
