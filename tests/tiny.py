"""A small real model and a robot description that tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml

from agent import checkpoint
from agent.processor import OBJECTS, Processor
from agent.spec import ACTION, AUDIO, IMAGES, SENSE, STATE, TASK, TIME, ActionSpec, Spec
from agent.tokenizer import train_tokenizer

CONFIGS = Path(__file__).parent.parent / "training" / "configs" / "model"
SENTENCES = ["put the red cube in the blue bowl", "pick up the green ball", "press the buzzer that is ringing"]
NAMES = ("dx", "dy", "dz", "dyaw", "gripper")


def tiny_spec() -> Spec:
    action = ActionSpec("ee_delta", NAMES, (-1.0,) * 5, (1.0,) * 5, (0.04, 0.04, 0.04, 0.3),
                        ((0.2, -0.3, 0.0), (0.7, 0.3, 0.5)))
    state = tuple(f"joint_{i}" for i in range(1, 8))
    return Spec({"front": (32, 32), "wrist": (32, 32)}, state, action, 10.0, ((0.1, 0.15, 0.3), (0.1, -0.15, 0.3)),
                senses={"force": ("force_x", "force_y", "force_z")})


def tiny_config(**changes) -> dict:
    """The shipped model's config with every width cut down."""
    config = yaml.safe_load((CONFIGS / "pocket.yaml").read_text())
    config |= {"senses": yaml.safe_load((CONFIGS / "pocket_force.yaml").read_text())["senses"]}
    config |= {"image_size": 32, "horizon": 4, "memory": 20}
    config["vision"] |= {"first": 8, "width": 16, "inner": 16}
    config["projectors"] = {"front": {"_target_": "agent.projectors.Linear"},
                            "wrist": {"_target_": "agent.projectors.PixelShuffle", "factor": 2}}
    config["audio"] |= {"hidden": 16, "width": 16}
    config["speech"] |= {"width": 36, "depth": 1}
    config["backbone"]["lm"] |= {"width": 32, "depth": 2, "heads": 2, "feed": 48}
    config["generator"] |= {"width": 32, "feed": 48, "draws": 2, "steps": 3}
    return config | changes


def tiny_model(seed: int = 0, **changes):
    """(model, processor, config)."""
    torch.manual_seed(seed)
    spec, tokenizer, config = tiny_spec(), train_tokenizer(SENTENCES), tiny_config(**changes)
    model = checkpoint.new_model(config, spec, tokenizer)
    awaken(model)
    return model, Processor(spec, tokenizer, config["image_size"]), config


def awaken(model) -> None:
    """Give the zero-initialised modulations weights, so that every input reaches every output."""
    for name, p in model.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(p, std=0.1)


def tiny_sample(rng: np.random.Generator, decisions: int = 3, seconds: float = 2.0, targets: bool = True) -> dict:
    """One stretch of an episode of noise, in the project's keys."""
    times = np.sort(rng.choice(np.arange(1, int(seconds * 10) + 1), decisions, replace=False)) / 10
    sample = {TASK: str(rng.choice(SENTENCES)), TIME: times, "known": np.ones(decisions, bool),
              STATE: rng.normal(size=(decisions, 7)).astype(np.float32),
              SENSE + "force": rng.normal(size=(decisions, 3)).astype(np.float32),
              AUDIO: rng.normal(scale=0.1, size=(int(times[-1] * 16000), 2)).astype(np.float32)}
    sample |= {IMAGES + name: rng.integers(0, 255, (decisions, 32, 32, 3), dtype=np.uint8) for name in ("front", "wrist")}
    if targets:
        end = len(" ".join(sample[TASK].split()[:3]))
        sample |= {ACTION: rng.uniform(-1, 1, (decisions, 4, 5)), "action_weight": np.ones((decisions, 4)),
                   OBJECTS: rng.uniform(0, 1, (decisions, 10, 9)), "queries": np.array([["red cube", ""]] * decisions),
                   "source": rng.uniform(0, 1, (decisions, 4)).round(1), "skill": int(rng.integers(-1, 5)),
                   "mentions": np.array([end, -1]),
                   "goal": rng.normal(size=(decisions, 5, 3)), "goal_pixels": rng.uniform(-0.2, 1, (decisions, 5, 2, 2)),
                   "goal_weight": np.array([[1.0, 1.0, 0.0, 1.0, 0.0]] * decisions)}
    return sample
