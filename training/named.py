"""Policies by name: what `policy=NAME` may say, and what is asked of each kind before it plays."""

from __future__ import annotations

import hashlib
import importlib
import re
from pathlib import Path
from typing import Callable

import gymnasium as gym

from agent.spec import Spec, SpecError
from policies.base import Policy
from training.replay import PREFIX, Recordings, Replay, dataset_fingerprint
from training.settings import SettingsError

OWN = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")  # MODULE:NAME


class Named:
    """A kind of policy, known by its name and not made yet. senseless: whether it goes by nothing that is sensed or said."""

    senseless = False

    def __init__(self, name: str):
        self.name = name

    def tasks(self) -> list[str]:
        """Those that it says it is for; [] where nothing says."""
        return []

    def fingerprint(self) -> str | None:
        """The first half of the SHA-256 of what it is made from; None for one that comes with Soma."""
        return None

    def check(self, robot: Spec) -> None:
        """Raise SettingsError where there is no such policy, or none for this robot."""

    def make(self, env: gym.Env, device: str) -> Policy:
        """Raises SettingsError for a device that there is not, and what its files raise where they are none."""
        raise NotImplementedError


class Expert(Named):
    senseless = True

    def make(self, env: gym.Env, device: str) -> Policy:
        from policies.scripted import ExpertPolicy

        return ExpertPolicy(env)


class Random(Named):
    def make(self, env: gym.Env, device: str) -> Policy:
        from policies.simple import RandomPolicy

        return RandomPolicy()


class Recorded(Named):
    """replay:FOLDER, the episodes of a dataset."""

    senseless = True

    @property
    def folder(self) -> str:
        return self.name.removeprefix(PREFIX)

    def tasks(self) -> list[str]:
        return [key.task for key in Recordings(self.folder).episodes]

    def fingerprint(self) -> str | None:
        return dataset_fingerprint(self.folder)

    def make(self, env: gym.Env, device: str) -> Policy:
        return Replay(self.folder)


class Own(Named):
    """MODULE:NAME, a class or function of one's own that gives a policy when it is called without arguments."""

    def maker(self) -> Callable[[], Policy]:
        """Raises SettingsError."""
        module, _, name = self.name.partition(":")
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            raise SettingsError(f"policy={self.name}: {error}; PYTHONPATH=FOLDER says where else Python is to look") from error
        if not callable(found):
            raise SettingsError(f"policy={self.name}: {module} has no {name} that can be called")
        return found

    def fingerprint(self) -> str | None:
        """Of the file in which it is."""
        file = importlib.import_module(self.maker().__module__).__file__
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:32]

    def check(self, robot: Spec) -> None:
        self.maker()

    def make(self, env: gym.Env, device: str) -> Policy:
        policy = self.maker()()
        if missing := [method for method in ("reset", "act") if not callable(getattr(policy, method, None))]:
            raise SettingsError(f"policy={self.name} gives a {type(policy).__name__} without {' and '.join(missing)}: a policy "
                                "has reset(spec, seed) and act(obs) -> Chunk (policies.base.Policy)")
        return policy


class Weights(Named):
    """A shipped name or a checkpoint's folder. All raise agent.checkpoint.CheckpointError, too."""

    def tasks(self) -> list[str]:
        from agent.checkpoint import find, page

        return page(find(self.name))["notes"].get("tasks", [])

    def fingerprint(self) -> str | None:
        from agent import checkpoint

        return checkpoint.fingerprint(self.name)

    def check(self, robot: Spec) -> None:
        from agent.checkpoint import find, page
        from policies.mmllm import require_same

        try:
            require_same(Spec.from_dict(page(find(self.name))["spec"]), robot)
        except SpecError as error:
            raise SettingsError(f"policy={self.name}: {error}") from error

    def make(self, env: gym.Env, device: str) -> Policy:
        import torch

        from policies.mmllm import MMLLMPolicy

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # what PyTorch says of one it does not know, or was not built for
            raise SettingsError(f"device={device}: {str(error).splitlines()[0]}; soma doctor says what there is") from error
        torch.set_num_threads(1)  # one a process: two beside another busy process make decisions ten times as slow
        return MMLLMPolicy.load(self.name, device)


def named(policy: str) -> Named:
    """The kind of policy that a name asks for."""
    if policy.startswith(PREFIX):
        return Recorded(policy)
    kind = {"expert": Expert, "random": Random}.get(policy) or (Own if OWN.fullmatch(policy) else Weights)
    return kind(policy)


def load_policy(name: str, env: gym.Env, device: str = "cpu", weights: str | None = None) -> Policy:
    """A policy for an environment. weights: its `fingerprint`, where it matters that it is the very one. Raises what
    `Named.make` raises, and SettingsError for another one."""
    kind = named(name)
    policy = kind.make(env, device)
    if weights not in (None, kind.fingerprint()):
        raise SettingsError(f"policy={name} has changed since this began: are its weights being trained? A copy of their folder "
                            "stays as it is")
    return policy
