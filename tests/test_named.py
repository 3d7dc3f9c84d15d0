"""Policies by name: which one a name asks for, that it is the same one later, and one's own among them."""

import json
import sys
from dataclasses import replace

import pytest

import tests.little_world  # noqa: F401 registers its environment
from agent import checkpoint
from tests.tiny import tiny_model
from training import evaluate as ev
from training.collect import Demonstrator
from training.named import Expert, Own, Random, Recorded, Weights, named
from training.play import Player, Setting, check_policy
from training.settings import SettingsError

SETTING = Setting("random", "tests.little_world:little/World-v0", {}, "new_scenes")  # which worker processes register, too
STILL = """
import numpy as np
from agent.spec import TIME, Chunk

class Still:
    def reset(self, spec, seed):
        self.spec = spec

    def act(self, obs):
        return Chunk(np.zeros((4, self.spec.action.size), np.float32), float(obs[TIME]), self.spec.control_hz)

def made():
    return Still()

robot = 7
"""


@pytest.fixture
def still(tmp_path, monkeypatch):
    """The file of a module `stands_still` that can be imported."""
    file = tmp_path / "lies_here" / "stands_still.py"
    file.parent.mkdir()
    file.write_text(STILL)
    monkeypatch.syspath_prepend(file.parent)
    monkeypatch.delitem(sys.modules, "stands_still", raising=False)  # another test's
    return file


def play(out, setting, **more):
    return ev.evaluate(out, setting, ("reach",), 2, seed=10, videos=0, **more)


@pytest.mark.parametrize("name, kind", [
    ("expert", Expert), ("random", Random), ("replay:data/demos", Recorded), ("replay:demos", Recorded), ("pocket", Weights),
    ("outputs/run:2/weights", Weights), ("mine:Still", Own), ("mine.own:make_it", Own)])
def test_a_name_asks_for_a_kind_of_policy(name, kind):
    assert type(named(name)) is kind


@pytest.mark.parametrize("workers", [1, 2])
def test_a_policy_of_ones_own_is_evaluated(tmp_path, still, workers):
    figures = play(tmp_path / "class", replace(SETTING, policy="stands_still:Still"), workers=workers)
    assert figures["tasks"]["reach"]["episodes"] == 2 and figures["tasks"]["reach"]["errors"] == 0
    again = play(tmp_path / "function", replace(SETTING, policy="stands_still:made"), workers=workers)
    assert again["tasks"] == figures["tasks"]


def test_a_policy_of_ones_own_that_was_changed_is_another(tmp_path, still):
    play(tmp_path / "out", setting := replace(SETTING, policy="stands_still:Still"))
    still.write_text(STILL.replace("zeros", "ones"))
    with pytest.raises(SettingsError, match="weights was"):
        play(tmp_path / "out", setting)


@pytest.mark.parametrize("name, why", [
    ("nowhere_at_all:Still", "No module named 'nowhere_at_all'; PYTHONPATH=FOLDER"),
    ("stands_still:Moves", "stands_still has no Moves that can be called"),
    ("stands_still:robot", "stands_still has no robot that can be called")])
def test_what_is_no_policy_is_refused_before_anything_is_played(tmp_path, still, name, why):
    with pytest.raises(SettingsError, match=why):
        play(tmp_path / "out", replace(SETTING, policy=name))
    assert not (tmp_path / "out").exists()


def test_what_lacks_a_policys_methods_is_refused():
    check_policy(setting := replace(SETTING, policy="collections:OrderedDict"), "text")
    with pytest.raises(SettingsError, match="a OrderedDict without reset and act"):
        Player(setting)


def test_weights_that_change_meanwhile_are_noticed(tmp_path):
    model, processor, config = tiny_model()
    checkpoint.save(tmp_path / "weights", model, config, processor.tokenizer)
    setting = replace(SETTING, policy=str(tmp_path / "weights"))
    Player(setting, weights=named(setting.policy).fingerprint())
    with pytest.raises(SettingsError, match="has changed since this began: are its weights being trained"):
        Player(setting, weights="0" * 32)
    with pytest.raises(SettingsError, match="has changed since this began"):  # as who shows a learner how to go on
        Demonstrator("tests.collecting:Counting-v0", {}, str(tmp_path), 0.0, setting.policy, None, "expert", 0.0, "0" * 32)


def test_what_decides_a_checkpoints_actions_is_in_its_fingerprint(tmp_path):
    model, processor, config = tiny_model()
    folder = tmp_path / "weights"
    checkpoint.save(folder, model, config, processor.tokenizer)
    before = named(str(folder)).fingerprint()
    checkpoint.save(folder, model, config, processor.tokenizer, notes={"steps": 3})
    (folder / "CARD.md").write_text("how it was made")
    assert named(str(folder)).fingerprint() == before
    page = json.loads((folder / "config.json").read_text())
    page["model"]["horizon"] += 1
    (folder / "config.json").write_text(json.dumps(page))
    other = named(str(folder)).fingerprint()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    assert len({before, other, named(str(folder)).fingerprint()}) == 3


def test_weights_of_another_robot_are_refused_before_anything_is_played(tmp_path):
    slow = Setting("pocket", "soma/Tabletop-v0", {"control_hz": 25.0}, "new_scenes")
    with pytest.raises(SettingsError, match="trained with control_hz 10.0, this robot has 25.0"):
        play(tmp_path / "out", slow)
    assert not (tmp_path / "out").exists()
