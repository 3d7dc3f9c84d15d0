"""The training loop of every stage: what a stage learns from, and what of the model is trained, is said elsewhere
(training/stages.py and its YAML)."""

from __future__ import annotations

import json
import math
import os
import shutil
import sysconfig
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Mapping

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from agent import checkpoint
from agent.model import EmbodiedModel
from training.files import write_whole
from training.optimizers import KINDS, optimizers
from training.settings import claim
from training.workers import for_loaders, give_way

PRECISIONS = ("auto", "bf16", "fp32")
PROTOCOL = "train.json"  # in a run's folder: what it learns, from what and how


class TrainError(ValueError):
    """A training set-up that cannot work; the message says what came and what is allowed."""


@dataclass
class Schedule:
    """How long and how fast. steps: optimiser steps; rate: peak learning rate after `warmup` steps, then cosine to
    `floor` of it; precision: what is multiplied in (`bf16`)."""

    steps: int = 10000
    rate: float = 1e-3
    warmup: int = 300
    floor: float = 0.02
    optimizer: str = "adamw"  # or muon (hidden matrices; AdamW moves the rest)
    decay: float = 0.05  # weight decay, of what has two dimensions or more
    clip: float = 1.0
    ema: float = 0.998
    save_every: int = 500
    log_every: int = 50
    seed: int = 0
    precision: str = "auto"
    workers: int = 1
    compile: bool = False  # the busiest parts of the model, by torch.compile: minutes at the start, faster then
    train: tuple[str, ...] = ("",)  # prefixes of the parameter names that are trained
    weights: Mapping[str, float] = field(default_factory=dict)  # of the named losses; 1 where not given

    def __post_init__(self):
        """Raises TrainError for what is not known, or cannot be had on this machine."""
        for name, allowed in (("optimizer", KINDS), ("precision", PRECISIONS)):
            if (asked := getattr(self, name)) not in allowed:
                raise TrainError(f"{name} {asked!r}: allowed are {', '.join(allowed)}")
        if self.compile and compiler() is None:
            raise TrainError("compile needs a C++ compiler (g++ or clang++) and Python's headers (python3-dev); without "
                             "them, stage.schedule.compile=false")

    def at(self, step: int) -> float:
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def bf16(asked: str) -> bool:
    """Whether to multiply in bf16; "auto" does where the hardware does it fast (a CPU without AVX512-BF16 or AMX is a
    hundred times slower in bf16 than in fp32)."""
    if asked == "auto":
        return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else fast_bf16_cpu()
    return asked == "bf16"


def fast_bf16_cpu() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def compiler() -> str | None:
    """Path of the C++ compiler that torch.compile needs, where Python's headers are there, too."""
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    return (shutil.which("g++") or shutil.which("clang++")) if headers else None


def peers() -> PartialState:
    """Those that train together, of which this is one. They wait for each other as long as one practises or speaks."""
    return PartialState(cpu=share_of_cpu(), timeout=timedelta(days=1))


def share_of_cpu() -> bool:
    """Whether this is one of several processes that train together without a GPU; Accelerate has to be told so."""
    return "RANK" in os.environ and not torch.cuda.is_available()


def freeze(model: nn.Module, schedule: Schedule) -> None:
    """Freeze what no prefix names. Raises TrainError for a prefix that matches nothing."""
    for prefix in schedule.train:
        if not any(name.startswith(prefix) for name, _ in model.named_parameters()):
            parts = sorted({name.split(".")[0] for name, _ in model.named_parameters()})
            raise TrainError(f"train: no parameter begins with {prefix!r}; the model's parts are {parts}")
    for name, p in model.named_parameters():
        p.requires_grad_(p.requires_grad and name.startswith(tuple(schedule.train)))


class Average:
    """Exponential moving average of the weights (Polyak & Juditsky 1992); of step t no more than t / (t + 10) is kept, so that
    the start is soon forgotten."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.step = decay, 0
        self.values = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.step += 1
        keep = min(self.decay, self.step / (self.step + 10))
        own = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.values.values()), [own[name] for name in self.values], 1 - keep)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights with the averaged ones; a second call undoes it."""
        for name, p in model.named_parameters():
            if name in self.values:
                own = p.detach().clone()
                p.copy_(self.values[name])
                self.values[name] = own


class Trainer:
    """Model, optimiser, average and their state on disk; `run` is the loop. notes: plain values kept in the checkpoint.
    protocol: all settings that make a run another one.

    Of several processes (training.workers.together, torchrun, accelerate launch) each takes its own batches of `data`, the
    gradients are averaged, and the first one writes.
    """

    def __init__(self, model: EmbodiedModel, config: Mapping, tokenizer, data, schedule: Schedule, out: str | Path,
                 notes: Mapping | None = None, protocol: Mapping | None = None):
        self.notes, self.protocol = dict(notes or {}), dict(protocol or {})
        self.model, self.config, self.tokenizer, self.data = model, config, tokenizer, data
        self.schedule, self.out, self.step = schedule, Path(out), 0
        peers()
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # a batch without sound, a stage without speech
        self.accelerator = Accelerator(cpu=share_of_cpu(), kwargs_handlers=[unused])
        self.bf16 = bf16(schedule.precision)
        freeze(model, schedule)
        self.optimizers = optimizers(model, schedule.optimizer, schedule.rate, schedule.decay, self.bf16)
        if schedule.compile:
            model.compile_busiest()
        self.ready, *self.optimizers = self.accelerator.prepare(model, *self.optimizers)
        self.average = Average(model, schedule.ema)  # of the weights where they are now

    def run(self, until: int | None = None) -> None:
        """Train from where the last checkpoint in `out` stands: to the schedule's end, or to step `until` of it."""
        self.resume()
        until = min(until or self.schedule.steps, self.schedule.steps)
        count, first = self.accelerator.num_processes, self.accelerator.is_main_process
        if self.step >= until:
            if first and until == self.schedule.steps:
                print(f"{self.out} has been trained for {self.step} steps already, of {self.schedule.steps}")
            return
        steps = range(self.step * count + self.accelerator.process_index, until * count, count)
        loader = DataLoader(self.data, batch_size=None, sampler=steps, num_workers=self.schedule.workers,
                            multiprocessing_context=for_loaders() if self.schedule.workers else None,
                            prefetch_factor=4 if self.schedule.workers else None, worker_init_fn=give_way)
        log = Log(self.out, self.step) if first else None
        self.ready.train()
        bar = tqdm(loader, initial=self.step, total=self.schedule.steps, unit="step", smoothing=0.05, disable=not first)
        for batch in bar:
            losses = self.update(batch)
            if not math.isfinite(losses["gradient"]):
                raise TrainError(f"step {self.step}: the gradient is not finite, the losses are {losses}; the last checkpoint in "
                                 f"{self.out} is as it was; what may help: a lower stage.schedule.rate, or "
                                 f"+stage.schedule.precision=fp32, with init={self.out}/weights and another out=FOLDER")
            if log is not None:
                log.add(losses, count * len(batch.text) * batch.known.shape[1])
            if log is not None and self.step % self.schedule.log_every == 0:
                log.write(self.step, self.schedule.at(self.step))
            if self.step % self.schedule.save_every == 0 or self.step == until:
                self.save()
        self.accelerator.wait_for_everyone()

    def update(self, batch) -> dict[str, float]:
        """One optimiser step. All random numbers of a step come from its own seed, so a resumed run is the same run."""
        place = self.step * self.accelerator.num_processes + self.accelerator.process_index
        torch.manual_seed(self.schedule.seed * 1_000_003 + place)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = self.schedule.at(self.step)
        device = self.accelerator.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            losses = self.ready(batch.to(device))
        total = sum(self.schedule.weights.get(name, 1.0) * value for name, value in losses.items())
        self.accelerator.backward(total)
        norm = self.accelerator.clip_grad_norm_(self.ready.parameters(), self.schedule.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update(self.model)
        self.step += 1
        seen = {name: value.detach() for name, value in losses.items()} | {"gradient": norm}
        return dict(zip(seen, torch.stack([value.float() for value in seen.values()]).tolist()))  # one wait for the device

    def save(self) -> None:
        """The averaged weights as a checkpoint to play (`weights/`), and all that is needed to go on (`resume/STEP/`), where the
        weights are, too, until resume/step.json says in one move that all is whole."""
        if not self.accelerator.is_main_process:
            return
        resume = self.out / "resume"
        folder = resume / str(self.step)
        folder.mkdir(parents=True, exist_ok=True)
        raw = {name: p.detach().cpu().contiguous().clone() for name, p in self.model.named_parameters()}
        save_file(raw, folder / "model.safetensors")
        save_file(self.average.values, folder / "average.safetensors")
        save_file(flat_state(self.optimizers), folder / "optimizer.safetensors")
        self.average.swap(self.model)
        checkpoint.save(folder / "weights", self.model, self.config, self.tokenizer, notes=self.notes | {"steps": self.step})
        self.average.swap(self.model)
        now = {"step": self.step, "average": self.average.step, "optimizer": self.schedule.optimizer, "seed": self.schedule.seed}
        write_whole(resume / "step.json", json.dumps(now))
        self.show(folder)
        for old in resume.iterdir():
            if old.is_dir() and old != folder:
                shutil.rmtree(old)

    def show(self, folder: Path) -> None:
        """Move the averaged weights out of a checkpoint to where they are played from, if they are not there already."""
        if (folder / "weights").is_dir():
            shutil.rmtree(self.out / "weights", ignore_errors=True)
            (folder / "weights").replace(self.out / "weights")

    def resume(self) -> None:
        """Go on from the checkpoint in `out`, if there is one. Raises SettingsError or TrainError where it is of another run."""
        if self.accelerator.is_main_process:
            claim(self.out / PROTOCOL, self.protocol)
        resume = self.out / "resume"
        if not (resume / "step.json").is_file():
            return
        at = json.loads((resume / "step.json").read_text())
        folder = resume / str(at["step"])
        if self.accelerator.is_main_process:
            self.show(folder)
        model = load_file(folder / "model.safetensors")
        self.require_same(at, model)
        self.step, self.average.step = at["step"], at["average"]
        self.model.load_state_dict(model, strict=False)
        average = load_file(folder / "average.safetensors")
        self.average.values = {name: value.to(self.accelerator.device) for name, value in average.items()}
        load_flat_state(self.optimizers, load_file(folder / "optimizer.safetensors"))

    def require_same(self, at: Mapping, model: Mapping[str, torch.Tensor]) -> None:
        """Raise TrainError, naming what is not the same, where a checkpoint does not belong to these settings."""
        own = {name: p.shape for name, p in self.model.named_parameters()}
        changed = [f"{key} was {at[key]!r}, is now {getattr(self.schedule, key)!r}" for key in ("optimizer", "seed")
                   if at[key] != getattr(self.schedule, key)]
        changed += [f"parameter {name}" for name in sorted(own.keys() | model.keys())
                    if name not in model or own.get(name) != model[name].shape][:3]
        if changed:
            raise TrainError(f"{self.out} holds a run of other settings: {'; '.join(changed)}. Take another out=FOLDER")


def flat_state(optimizers: list[Optimizer]) -> dict[str, torch.Tensor]:
    """The optimisers' states as named tensors (safetensors holds nothing else)."""
    return {f"{n}.{i}.{key}": value.detach().cpu().clone() for n, optimizer in enumerate(optimizers)
            for i, state in optimizer.state_dict()["state"].items() for key, value in state.items()}


def load_flat_state(optimizers: list[Optimizer], tensors: Mapping[str, torch.Tensor]) -> None:
    states: list[dict[int, dict]] = [{} for _ in optimizers]
    for name, value in tensors.items():
        n, i, key = name.split(".", 2)
        states[int(n)].setdefault(int(i), {})[key] = value
    for optimizer, state in zip(optimizers, states):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Log:
    """Means of the losses since the last line, each over the batches that have it: on screen, in TensorBoard, and in log.jsonl.
    What was written of later steps than `step`, which are done again, is taken back."""

    def __init__(self, out: Path, step: int):
        out.mkdir(parents=True, exist_ok=True)
        self.board, self.file = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1), out / "log.jsonl"
        lines = self.file.read_text().splitlines() if self.file.is_file() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        write_whole(self.file, "".join(line + "\n" for line in kept))
        self.clear()

    def clear(self) -> None:
        self.values, self.samples, self.since = defaultdict(list), 0, time.perf_counter()

    def add(self, losses: Mapping[str, float], samples: int) -> None:
        for name, value in losses.items():
            self.values[name].append(value)
        self.samples += samples

    def write(self, step: int, rate: float) -> None:
        line = {name: fmean(values) for name, values in self.values.items()}
        line |= {"rate": rate, "samples_per_s": self.samples / (time.perf_counter() - self.since)}
        for name, value in line.items():
            self.board.add_scalar(name, value, step)
        with self.file.open("a") as f:
            f.write(json.dumps({"step": step} | line) + "\n")
        tqdm.write(f"step {step:6d}  " + "  ".join(f"{name} {value:.4g}" for name, value in line.items()))
        self.clear()
