"""What a model is made of and saved as: settings, the contract with its robot, checkpoints."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from agent import checkpoint
from agent.processor import Processor
from agent.spec import AUDIO, IMAGES, SENSE, STATE, TASK, TIME, Spec, SpecError
from agent.tokenizer import train_tokenizer
from policies.mmllm import MMLLMPolicy
from tests.tiny import SENTENCES, tiny_config, tiny_model, tiny_sample, tiny_spec


def test_checkpoint_round_trip(tmp_path):
    model, processor, config = tiny_model()
    model.normalize_state.fit(np.random.default_rng(0).normal(size=(50, 7)))
    checkpoint.save(tmp_path, model, config, processor.tokenizer)
    again, processor2, page = checkpoint.load(tmp_path)
    assert page["model"] == config and again.spec == model.spec
    batch = processor2([tiny_sample(np.random.default_rng(0), 1)])
    a, b = (m.act(batch, torch.Generator().manual_seed(0)).actions for m in (model.eval(), again))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize("file, content", [("config.json", "{"), ("config.json", "{}"), ("model.safetensors", "cut")])
def test_a_checkpoint_that_is_damaged_is_named(tmp_path, file, content):
    model, processor, config = tiny_model()
    checkpoint.save(tmp_path, model, config, processor.tokenizer)
    (tmp_path / file).write_text(content)
    with pytest.raises(checkpoint.CheckpointError, match=str(tmp_path)):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("key", ["spec", "model", "spec.cameras", "spec.action", "spec.action.kind", "model.image_size",
                                 "model.vision", "model.backbone"])
def test_a_checkpoint_whose_config_lacks_something_is_named(tmp_path, key):
    model, processor, config = tiny_model()
    checkpoint.save(tmp_path, model, config, processor.tokenizer)
    page = json.loads((tmp_path / "config.json").read_text())
    *branches, leaf = key.split(".")
    del functools.reduce(lambda node, name: node[name], branches, page)[leaf]
    (tmp_path / "config.json").write_text(json.dumps(page))
    with pytest.raises(checkpoint.CheckpointError, match=f"(?s){tmp_path}.*{leaf}"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("name", sorted(p.name for p in checkpoint.SHIPPED.iterdir()))
def test_what_ships_can_be_loaded(name):
    assert checkpoint.load(name)[0].spec.cameras


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "agent.checkpoint.importlib", "torch.nn.Linear",
                                    "agent.later.Encoder"])
def test_checkpoint_may_only_name_our_own(tmp_path, target):
    model, processor, config = tiny_model()
    checkpoint.save(tmp_path, model, config, processor.tokenizer)
    page = json.loads((tmp_path / "config.json").read_text())
    page["model"]["proprio"]["_target_"] = target
    (tmp_path / "config.json").write_text(json.dumps(page))
    with pytest.raises(checkpoint.CheckpointError, match=target.split(".")[0]):
        checkpoint.load(tmp_path)


def test_missing_checkpoint_names_what_ships():
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint at 'nowhere'"):
        checkpoint.load("nowhere")


@pytest.mark.parametrize("changes, why", [
    ({"horizon": 0}, "horizon 0"), ({"memory": 0}, "memory 0"), ({"audio": {"hidden": "x"}}, "str"),
    ({"generator": {"steps": 0}}, "steps 0"), ({"generator": {"width": 33}}, "width 33"),
    ({"backbone": {"lm": {"width": 33}}}, "width 33"),
])
def test_settings_of_which_no_model_can_be_made_are_named(changes, why):
    config = OmegaConf.to_container(OmegaConf.merge(tiny_config(), changes))
    with pytest.raises(checkpoint.CheckpointError, match=why):
        checkpoint.new_model(config, tiny_spec(), train_tokenizer(SENTENCES))


def test_ears_are_made_for_one_sample_rate():
    spec, tokenizer = replace(tiny_spec(), sample_rate=48000), train_tokenizer(SENTENCES)
    with pytest.raises(checkpoint.CheckpointError, match="48000 Hz"):
        checkpoint.new_model(tiny_config(), spec, tokenizer)
    deaf = replace(spec, microphones=(), sample_rate=22050)  # says nothing of one who has none
    policy = MMLLMPolicy(checkpoint.new_model(tiny_config(), deaf, tokenizer), Processor(deaf, tokenizer, 32))
    assert np.isfinite(policy.act(deaf.blank("go on")).actions).all()


def test_an_instruction_that_is_not_read_whole_is_refused():
    model, processor, _ = tiny_model()
    with pytest.raises(SpecError, match="more than 48 tokens"):
        MMLLMPolicy(model, processor).act(model.spec.blank("put the red cube " * 20 + "down"))


def test_spec_round_trip_and_check():
    spec = tiny_spec()
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    good = spec.blank("go on")
    assert set(good) == {IMAGES + "front", IMAGES + "wrist", AUDIO, STATE, TASK, TIME, SENSE + "force"}
    spec.check(good)
    later = spec.to_dict() | {"of_another_version": 1}
    assert Spec.from_dict(later | {"action": later["action"] | {"of_another_version": 1}}) == spec
    for key, bad in ((SENSE + "force", np.zeros(2, np.float32)), (STATE, np.zeros(6, np.float32)),
                     (STATE, np.full(7, np.nan, np.float32)), (TASK, 3), (TIME, None), (TIME, np.nan),
                     (AUDIO, np.zeros((10, 1), np.float32)), (IMAGES + "front", np.zeros((32, 32, 3), np.float32))):
        with pytest.raises(SpecError, match=key.replace(".", r"\.")):
            spec.check(good | {key: bad})
