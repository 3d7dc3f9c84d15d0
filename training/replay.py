"""Recorded episodes as a policy: `policy=replay:FOLDER` plays each again as it was recorded, from the same scene."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agent.spec import ACTION, Chunk, Spec, SpecError
from policies.simple import ReplayPolicy
from training.data import lerobot_format as form
from training.data.demos import DemoReader, Episode
from training.settings import SettingsError

PREFIX = "replay:"  # of a policy's name


class Key(NamedTuple):
    """What an episode is known by; safety: whether a supervisor stood between whoever drove and the arm."""

    task: str
    seed: int
    split: str
    safety: bool

    def __str__(self) -> str:
        return f"{self.task}, seed={self.seed} split={self.split} safety={str(self.safety).lower()}"


class Recordings:
    """A dataset's episodes by what they show. Raises SettingsError for one in which a learner drove (there the actions are
    what the expert would have done, not what was played), and for one of beginnings."""

    def __init__(self, folder: str | Path):
        self.folder, self.reader = Path(folder), DemoReader(folder)
        protocol = self.folder / "collect.json"
        made = form.read_json(protocol) if protocol.is_file() else {}
        if made.get("learner") is not None:
            raise SettingsError(f"{folder}: a learner drove in it, and what it did was not recorded; another dataset is needed")
        if made.get("beginning") is not None:
            raise SettingsError(f"{folder}: its episodes were broken off after {made['beginning']} steps; whole ones are needed")
        known = [e for e in self.reader.episodes if {"task_name", "seed", "split"} <= e.info.keys()]
        self.episodes = {Key(e.info["task_name"], e.info["seed"], e.info["split"], e.info.get("supervised", False)): e
                         for e in known}

    def find(self, key: Key) -> Episode:
        """Raises SettingsError that says what there is."""
        if key not in self.episodes:
            alike = sorted(k for k in self.episodes if k.task == key.task) or sorted(self.episodes)
            there = f"{len(alike)} such as {'; '.join(map(str, alike[:4]))}" if alike else "none that says its task and seed"
            raise SettingsError(f"{self.folder} has no episode of {key}; it has {there}")
        return self.episodes[key]

    def options(self, key: Key) -> dict[str, Any]:
        """Of the environment's reset, with which an episode was recorded. Raises SettingsError."""
        info = self.find(key).info
        return {name: info[name] for name in ("instruct", "perturb") if name in info}


class Replay:
    """Plays one episode after the other of a dataset: the one that was chosen (`choose`) before it is reset."""

    sees = False

    def __init__(self, folder: str | Path):
        self.recordings = Recordings(folder)

    def choose(self, key: Key) -> dict[str, Any]:
        """What the environment has to be reset with. Raises SettingsError."""
        actions = self.recordings.reader.episode(self.recordings.find(key).index)[ACTION]
        self.policy = ReplayPolicy(actions)
        return self.recordings.options(key)

    def reset(self, spec: Spec, seed: int) -> None:
        """Raises agent.spec.SpecError where it was recorded of a robot that takes other actions, or at another rate."""
        own = self.recordings.reader.spec
        for what, there, here in (("control_hz", own.control_hz, spec.control_hz), ("action", own.action, spec.action)):
            if there != here:
                raise SpecError(f"{self.recordings.folder} was recorded with {what} {there}, this robot has {here}")
        self.policy.reset(spec, seed)

    def act(self, obs: Mapping[str, Any]) -> Chunk:
        return self.policy.act(obs)


def dataset_fingerprint(folder: str | Path) -> str:
    """The first half of the SHA-256 of a dataset's counts and statistics."""
    content = b"".join((Path(folder) / name).read_bytes() for name in (form.INFO, form.STATS))
    return hashlib.sha256(content).hexdigest()[:32]
