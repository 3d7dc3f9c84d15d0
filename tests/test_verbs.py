"""The verbs as a user types them, from the command line to what lies on the disk."""

import json
import re

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from agent import checkpoint
from envs.tabletop.env import streams
from envs.tabletop.tasks import TASKS
from envs.tabletop.voices import Voice, speak
from tests.tiny import tiny_model, tiny_sample
from training import cli, settings
from training.play import task_names

SMALL = "env.kwargs.image_size=32"


def soma(*words):
    assert cli.main(list(words)) == 0


def test_an_episode_is_run_and_filmed(tmp_path, capsys):
    soma("run", "policy=expert", "task=reach the red cube", f"+{SMALL}", f"out={tmp_path}")
    said = capsys.readouterr().out
    assert "told by text: reach the red cube" in said and "success after" in said
    [film] = tmp_path.glob("reach-*.mp4")
    assert f"film: {film}" in said and film.stat().st_size > 1000


def test_an_episode_is_told_by_a_recording(tmp_path, capsys):
    """At a rate of its own; the shipped recogniser says which scene is set up."""
    wave = speak("press the red button", Voice("espeak", "en-us+f3"))
    soundfile.write(tmp_path / "say.wav", np.repeat(wave, 3), 48000)
    soma("run", f"audio={tmp_path / 'say.wav'}", f"out={tmp_path}")
    said = capsys.readouterr().out
    assert re.search(r"understood with confidence \S+: press the red button", said)
    assert "scene: press_button" in said and "told by voice: press the red button" in said
    assert list(tmp_path.glob("press_button-*.mp4"))


def test_words_choose_the_scene_of_the_task_that_is_asked_for_and_no_other(tmp_path, capsys):
    for scene, said in (("pick_up", "told by text: pick up the red cube"), ("stack", "scene: stack, seed 0 ")):
        soma("run", "policy=random", "task=pick up the red cube", f"scene={scene}", f"+{SMALL}", f"out={tmp_path}")
        out = capsys.readouterr().out
        assert said in out and (scene in out)
    [film] = tmp_path.glob("pick_up-*.mp4")
    scene = TASKS["pick_up"]().scene(streams("new_scenes", int(film.stem.split("-")[1]))[0], "new_scenes")
    assert "red cube" in scene.words.values()


def test_another_environment_is_one_task_named_after_it(tmp_path, capsys):
    little = ("env.id=tests.little_world:little/World-v0", "policy=random", "episodes=3", "workers=1", "videos=0")
    soma("eval", *little, f"out={tmp_path}")
    figures = json.loads((tmp_path / "results.json").read_text())
    assert {name: counts["episodes"] for name, counts in figures["tasks"].items()} == {"little-World-v0": 3}
    assert task_names([], "random", "soma/PickUp-v0") == ["pick_up"] and len(task_names([], "random")) == 16


def test_a_demo_is_ten_episodes_and_a_page_and_takes_the_place_of_the_one_before(tmp_path, capsys):
    for episodes in (3, 2):
        soma("demo", "policy=expert", f"episodes={episodes}", "workers=1", f"+{SMALL}", f"out={tmp_path}")
    assert f"{tmp_path / 'report.html'}" in capsys.readouterr().out
    figures = json.loads((tmp_path / "results.json").read_text())
    assert sum(counts["episodes"] for counts in figures["tasks"].values()) == 2
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:video/mp4;base64,") == len(list((tmp_path / "videos").glob("*.mp4"))) == 2


def test_demonstrations_are_collected_and_policies_evaluated_on_them(tmp_path, capsys):
    demos, out = tmp_path / "demos", tmp_path / "eval"
    soma("collect", "tasks=reach,close_drawer", "episodes=2", "instruct=text", "workers=1", f"+{SMALL}", f"out={demos}")
    assert re.findall(r"(\w+) +kept 1", capsys.readouterr().out) == ["reach", "close_drawer"]
    soma("data", "check", str(demos))
    soma("eval", f"policy=replay:{demos}", "split=train", "seed=0", "episodes=1", "workers=1", "videos=0", f"out={out}")
    assert json.loads((out / "results.json").read_text())["success_rate"] == 1.0
    soma("report", str(out))
    assert (out / "report.html").is_file()


def test_an_exported_checkpoint_is_smaller_and_decides_alike(tmp_path, capsys):
    model, processor, config = tiny_model()
    with torch.no_grad():
        model.normalize_state.low.fill_(-1.0 / 3)
    checkpoint.save(tmp_path / "whole", model, config, processor.tokenizer, notes={"tasks": ["reach"]})
    soma("export", f"weights={tmp_path / 'whole'}", f"out={tmp_path / 'small'}")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "small")]
    assert f"{sizes[1] / 1e6:.1f} MB" in capsys.readouterr().out and sizes[1] < sizes[0]
    stored = load_file(tmp_path / "small" / "model.safetensors")
    kinds = {name: tensor.dtype for name, tensor in stored.items() if tensor.is_floating_point()}
    assert all(kind == (torch.float32 if "normalize" in name else torch.float16) for name, kind in kinds.items())
    small, again, page = checkpoint.load(tmp_path / "small")
    torch.testing.assert_close(small.normalize_state.low, model.normalize_state.low)
    assert page["notes"]["tasks"] == ["reach"]
    batch = processor([tiny_sample(np.random.default_rng(0))])
    ours, theirs = (m.eval().act(batch, torch.Generator().manual_seed(0)).actions for m in (model, small))
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)


def test_a_part_is_exchanged_from_the_command_line():
    bins = settings.compose("train", ["model.generator._target_=agent.generators.action_tokens.Bins",
                                      "~model.generator.draws", "~model.generator.steps", "+model.generator.bins=33"])
    model, processor, _ = tiny_model()
    spec, made = model.spec, checkpoint.new_model(bins["model"], model.spec, processor.tokenizer)
    assert made.generator.bins == 33 and made.generator.action_size == spec.action.size
    with pytest.raises(settings.SettingsError, match="leaves out a part's key"):
        settings.compose("train", ["~model"])
