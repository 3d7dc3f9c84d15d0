"""The command `soma`: what is asked is understood, mistakes are answered with what is allowed, every YAML composes."""

import errno
import json
import os
import re
import subprocess
import sys
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import SafetensorError

from agent import checkpoint
from envs.tabletop.env import TabletopEnv, streams
from envs.tabletop.tasks import HEARD, TASKS
from envs.tabletop.words import instruction
from tests.tiny import tiny_model
from training import cli, demo, doctor, phrases, play, settings
from training.evaluate import EvaluateError
from training.settings import SettingsError, compose


def said(capsys, *words):
    status = cli.main(words)
    return status, capsys.readouterr()


@pytest.mark.parametrize("verb", cli.ORDER)
def test_every_verb_is_explained_and_composes(verb, capsys):
    status, page = said(capsys, verb, "--help")
    assert status == 0 and settings.heading(verb) in page.out
    assert all(key.comment and f"{key.name}={key.default}" in page.out for key in settings.keys(verb))
    examples = re.findall(rf"^ +(soma {verb}.*)$", settings.heading(verb), re.M)
    assert examples and set(compose(verb, [])) == {k.name for k in settings.keys(verb)} | set(settings.groups(verb))


def examples():
    lines = [line for verb in cli.ORDER for line in settings.heading(verb).splitlines()]
    return [line.strip().split("   ")[0] for line in lines if line.startswith("  soma")]  # and no remark behind


@pytest.mark.parametrize("example", examples())
def test_the_examples_of_the_help_compose(example):
    import shlex

    _, verb, *words = shlex.split(example)
    assert compose(verb, cli.positional(verb, words))


@pytest.mark.parametrize("script", ["recipe.sh", "measure.sh"])
def test_the_scripts_ask_for_what_composes(script, tmp_path):
    """Beside a soma that only notes what it is asked for."""
    noted, soma, flite = tmp_path / "noted", tmp_path / "soma", tmp_path / "flite"
    for program in (soma, flite):
        program.write_text(f'#!/bin/sh\necho "$@" >> {noted}\n')
        program.chmod(0o755)
    subprocess.run(["sh", Path(cli.__file__).parent / script, tmp_path / "first"], check=True, capture_output=True, cwd=tmp_path,
                   env=os.environ | {"SOMA": str(soma), "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    asked = [line.split() for line in noted.read_text().splitlines()]
    assert len(asked) >= 8
    for verb, *words in asked:
        config = compose(verb, cli.positional(verb, words))
        tasks = config.get("tasks") or config.get("stage", {}).get("tasks", [])
        assert set(tasks) <= set(TASKS) and play.task_names(tasks)


def choices():
    groups = [(verb, group, names) for verb in cli.ORDER for group, (_, names) in settings.groups(verb).items()]
    return [(verb, group, name) for verb, group, names in groups for name in names]


@pytest.mark.parametrize("verb, group, choice", choices())
def test_every_choice_of_every_group_composes(verb, group, choice):
    own = yaml.safe_load((settings.CONFIGS / group / f"{choice}.yaml").read_text())
    bases = [base for base in own.pop("defaults", []) if base != "_self_"]  # choices that this one builds on
    for base in bases:
        own |= yaml.safe_load((settings.CONFIGS / group / f"{base}.yaml").read_text())
    assert compose(verb, [f"{group}={choice}"])[group].keys() == own.keys()


def test_verbs_yaml_and_code_agree():
    assert set(settings.verbs()) == set(cli.ORDER) == set(cli.VERBS)


def test_the_overview_names_every_verb(capsys):
    status, page = said(capsys, "--help")
    assert status == 0 and all(re.search(rf"^  {verb} +\S", page.out, re.M) for verb in cli.ORDER)


# ---- mistakes


MISTAKES = [
    (["evl"], ["'evl'", "mean eval", "demo, run"]),
    (["eval", "epsodes=3"], ["'epsodes'", "mean episodes", "instruct"]),
    (["eval", "episodes=many"], ["episodes=many", "whole number"]),
    (["eval", "mute=perhaps"], ["mute=perhaps", "true or false"]),
    (["eval", "blend=x"], ["blend=x", "a number"]),
    (["train", "stage=demo"], ["'demo'", "mean demos"]),
    (["train", "stage.schedule.step=3"], ["mean stage.schedule.steps"]),
    (["eval", "twenty"], ["'twenty'", "key=value"]),
    (["eval", "--fast"], ["'--fast'", "--show"]),
    (["eval", "split=new_scene"], ["'new_scene'", "mean new_scenes"]),
    (["eval", "tasks=reach,pickup"], ["'pickup'", "mean pick_up"]),
    (["eval", "instruct=tex"], ["mean text"]),
    (["eval", "shard=3"], ["INDEX/COUNT"]),
    (["eval", "policy=expert", "blind=true", "out=OUT"], ["policy=expert"]),
    (["report", "dir=OUT"], ["protocol.json is missing"]),
    (["data", "chek", "OUT"], ["'chek'", "mean check"]),
    (["run", "task=make me a coffee", "policy=random"], ["make me a coffee", "pick up"]),
    (["run", "audio=nowhere.wav", "policy=random"], ["nowhere.wav", "no such file"]),
    (["run", "audio=DATA/meta/info.json", "policy=random"], ["audio=", "info.json", "WAV, FLAC"]),
    (["run", "decide_every=0", "policy=random"], ["decide_every=0", "at least 1"]),
    (["run", "seed=-1", "policy=random"], ["seed=-1", "at least 0"]),
    (["run", "device=abacus"], ["device=abacus", "cpu", "soma doctor"]),
    (["eval", "seed=1,2"], ["seed=1,2", "whole number"]),
    (["eval", "tasks=[reach"], ["tasks=[reach"]),
    (["eval", "episodes=0", "out=OUT"], ["episodes=0", "at least 1"]),
    (["eval", "env.kwargs.arm=ur5", "policy=random", "out=OUT"], ["'arm': 'ur5'", "panda, fr3"]),
    (["eval", "env.kwargs.armed=true", "policy=random", "out=OUT"], ["'armed'", "argument"]),
    (["collect", "env.id=Kitchen-v7", "out=OUT"], ["env.id=Kitchen-v7", "exist"]),
    (["run", "policy=nowhere:Mine", "out=OUT"], ["policy=nowhere:Mine", "No module named 'nowhere'", "PYTHONPATH=FOLDER"]),
    (["eval", "env.id=nowhere:Kitchen-v0", "policy=random", "out=OUT"], ["env.id=nowhere:Kitchen-v0", "nowhere"]),
    (["eval", "env.id=soma/PickUp-v0", "tasks=reach", "policy=random", "out=OUT"], ["tasks=reach", "the task pick_up alone"]),
    (["run", "policy=expert", "task=reach the red cube", "out=DATA/meta/info.json"], ["info.json", "there is a file"]),
    (["eval", "policy=random", "out=/proc/soma"], ["out=/proc/soma", "cannot be made"]),
    (["train", "data=[OUT/a,OUT/b]"], ["OUT/a"]),
    (["collect", "env.kwargs.image_size=3", "out=OUT"], ["'image_size': 3", "even number"]),
    (["collect", "beginning=0", "out=OUT"], ["beginning=0", "at least 1"]),
    (["collect", "beginning=half", "out=OUT"], ["beginning=half", "a whole number"]),
    (["collect", "env.kwargs.instruct=voice", "out=OUT"], ["env.kwargs.instruct=voice", "outside env"]),
    (["eval", "env.kwargs.task=reach", "policy=random", "out=OUT"], ["env.kwargs.task=reach", "outside env"]),
    (["run", "scene=3", "policy=random"], ["'3'", "reach"]),
    (["run", "task=5", "policy=random"], ["'5'"]),
    (["collect", "perturb=-1", "out=OUT"], ["perturb=-1", "at least 0"]),
    (["collect", "out=DATA"], ["metaworld_v3", "from elsewhere"]),
    (["eval", "out=DATA/meta/info.json", "policy=random"], ["info.json", "there is a file"]),
    (["eval", "env.kwargs.split=train", "policy=random", "out=OUT"], ["env.kwargs.split=train", "'new_scenes'"]),
    (["train", "seed=-1", "data=DATA"], ["seed=-1", "at least 0"]),
    (["collect", "learner=replay:DATA", "out=OUT"], ["learner=replay:DATA", "weights"]),
    (["train", "processes=0", "data=DATA"], ["processes=0", "at least 1"]),
    (["train", "stage.batch=0", "data=DATA"], ["stage.batch=0", "at least 1"]),
    (["train", "stage.decisions=0", "data=DATA"], ["stage.decisions=0", "at least 1"]),
    (["train", "stage.shares=[1,2]", "data=DATA"], ["stage.shares=[1, 2]", "each of the 1 datasets"]),
    (["train", "stage.shares=many", "data=DATA"], ["stage.shares=['many']", "one above 0"]),
    (["train", "stage=dagger", "stage.share=1", "data=DATA"], ["stage.share=1", "above 0 and below 1"]),
    (["train", "stage=dagger", "stage.rounds=[half]", "data=DATA"], ["rounds ['half']", "increasing steps above 0"]),
    (["train", "init=pocket", "model.backbone.lm.depth=2", "data=DATA"],
     ["model.backbone.lm.depth", "init=pocket", "its own language"]),
    (["train", "stage=hearing", "init=pocket", "tokenizer=DATA", "data=OUT"], ["tokenizer", "brings its own"]),
    (["train", "stage=hearing", "init=pocket", "model.horizon=4", "data=OUT"], ["count for nothing with stage=hearing"]),
    (["train", "+stage.schedule.precision=fp8", "data=DATA"], ["'fp8'", "auto, bf16, fp32"]),
    (["train", "stage=dagger", "stage.first_seed=100", "data=DATA"], ["stage.first_seed=100", "at least 480"]),
    (["run", "policy=expert", "task=reach the red cube\u2026", "out=OUT"], ["task=reach the red cube", "printable ASCII"]),
    (["eval", "policy=random", "env.kwargs.action=joint_position", "safety=true", "blend=0.2", "out=OUT"],
     ["blend=0.2", "with safety=true"]),
    (["collect", "env.kwargs.depth=true", "out=OUT"], ["env.kwargs.depth=true", "without it"]),
    (["data", "from-bag", "OUT", "out=OUT", "joints=a,b"], ["joints=a,b", "the 7 of the panda and a gripper"]),
    (["data", "from-bag", "OUT", "out=OUT", "hz=0"], ["hz=0", "above 0"]),
    (["train", "stage.schedule.save_every=0", "data=DATA"], ["stage.schedule.save_every=0", "at least 1"]),
    (["train", "+stage.schedule.stepz=1", "data=DATA"], ["'stepz'", "mean steps", "warmup"]),
    (["train", "+stage.schedule.clip=hard", "data=DATA"], ["stage.schedule.clip=hard", "a number"]),
    (["train", "+stage.dropout.left=1", "data=DATA"], ["'left'", "front, wrist"]),
    (["train", "model.backbone.tune=half", "data=DATA"], ["tune 'half'", "full, frozen, lora"]),
    (["train", "model.image_size=100", "data=DATA"], ["image_size 100", "multiple of 16"]),
    (["train", "model.projectors.front.factor=0", "data=DATA"], ["factor 0", "1 to 16"]),
    (["train", "+model.vision.eyes=2", "data=DATA"], ["NativeViT takes no eyes", "image_size, first, width"]),
    (["train", "~model.generator.drawz", "data=DATA"], ["'model.generator.drawz'", "mean model.generator.draws"]),
    (["train", "~stage", "data=DATA"], ["'~stage'", "leaves out a part's key"]),
    (["train", "~model.vision.depth=1", "data=DATA"], ["'~model.vision.depth=1'", "leaves out a part's key"]),
    (["train", "~model.backbone", "data=DATA"], ["'~model.backbone'", "leaves out a part's key"]),
    (["train", "+model.eyes=2", "data=DATA"], ["EmbodiedModel takes no eyes", "vision"]),
    (["eval", "+polcy=random", "out=OUT"], ["'polcy'", "mean policy"]),
    (["train", "+stage.decision=16", "data=DATA"], ["'stage.decision'", "mean stage.decisions"]),
    (["train", "data=nowhere"], ["data=nowhere", "meta/info.json is missing", "soma collect"]),
    (["export", "weights=pocket", "out=DATA"], ["nothing is overwritten", "another out=FOLDER"]),
    (["train", "stage=hearing", "init=pocket", "stage.voices={espeak: 1, pico: 0, festival: 0, piper: 0, hibari: 0}",
      "data=DATA"], ["DATA", "demonstrations", "voice bank"]),
]
DATA = Path(__file__).parent / "data" / "metaworld_v3"


@pytest.mark.parametrize("words, expected", MISTAKES)
def test_a_mistake_is_answered_in_one_message(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = list(DATA.rglob("*"))
    places = {"OUT": str(tmp_path), "DATA": str(DATA)}
    words, expected = ([reduce(lambda w, place: w.replace(*place), places.items(), word) for word in them]
                       for them in (words, expected))
    alone = ["threads=1"] if words[0] == "train" else []  # in this process, which is quicker
    status, page = said(capsys, *words, *alone)
    assert status == 2 and "Traceback" not in page.err
    assert page.err.startswith("soma: ") and all(part in page.err for part in expected), page.err
    assert not list(tmp_path.iterdir()) and list(DATA.rglob("*")) == before  # what was refused left nothing behind


def test_our_own_faults_keep_their_traceback(monkeypatch, capsys):
    """With a status of its own: a script is not to take them for an answer."""
    monkeypatch.setitem(cli.VERBS, "doctor", lambda cfg: 1 / 0)
    status, page = said(capsys, "doctor")
    assert status == 3 and "Traceback" in page.err and "ZeroDivisionError" in page.err


# ---- settings


@pytest.mark.parametrize("text", ["put the \"red\" cube, in (the) bowl? it's {there}", "a=b", "null and void", " x", "push \\",
                                  'say \\"no\\"'])
def test_an_instruction_arrives_as_it_was_typed(text):
    assert compose("run", [f"task={text}"])["task"] == text


def test_values_keep_the_type_of_their_default():
    words = ["episodes=3", "tasks=reach,pick_up", "out=7", "blend=1", "mute=true", "env.kwargs.depth=true"]
    config = compose("eval", words)
    assert (config["episodes"], config["tasks"], config["out"], config["mute"]) == (3, ["reach", "pick_up"], "7", True)
    assert config["blend"] == 1 and config["env"]["kwargs"] == {"depth": True}
    assert compose("eval", ["tasks=[reach]"])["tasks"] == ["reach"] == compose("eval", ["tasks=reach"])["tasks"]
    assert compose("train", ["+stage.schedule.clip=0.5"])["stage"]["schedule"]["clip"] == 0.5


def test_help_and_mistakes_are_quick():
    """They load neither torch nor MuJoCo."""
    code = ("import sys; from training.cli import main; main(['--help']); main(['eval', '--help']); "
            "main(['eval', 'x=1']); print(sorted({'torch', 'mujoco', 'transformers', 'gymnasium'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ---- from words to a scene


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("split", ["train", "new_phrasings"])
def test_every_phrasing_is_understood(name, split):
    rng = np.random.default_rng(0)
    for _ in range(12):
        scene = TASKS[name]().scene(rng, split)
        task, words = phrases.understand(instruction(TASKS[name], scene.words, rng, split))
        assert task == name and words == scene.words


def test_words_find_the_scene_that_the_environment_then_sets_up():
    task, words = phrases.understand("Put the red cube in the blue bowl")
    seed = phrases.find_scene(task, words, "new_scenes", 0)
    env = TabletopEnv(split="new_scenes", lazy_images=True)
    env.reset(seed=seed, options={"task": task, "instruction": "put it there"})
    assert env.world.scene.words == words and env.instruction == "put it there"


def test_a_scene_that_does_not_exist_is_said(monkeypatch):
    monkeypatch.setattr(phrases, "SEEDS", 50)
    with pytest.raises(SettingsError, match="none of 50 scenes of pick_up in split train has red bowl"):
        phrases.find_scene("pick_up", {"object": "red bowl"}, "train", 0)


def test_a_pair_that_is_held_out_is_said_at_once(monkeypatch):
    monkeypatch.setattr(phrases, "SEEDS", 0)  # no scene is looked at
    with pytest.raises(SettingsError, match="red ball: only split=new_combinations has it"):
        phrases.find_scene("pick_up", {"object": "red ball"}, "train", 0)


def test_words_for_two_things_and_two_places_find_a_scene():
    task, words = phrases.understand("put the red cube in the blue bowl and the green ball in the orange bowl")
    assert task == "sort_two"
    seed = phrases.find_scene(task, words, "new_scenes", 0)
    assert TASKS[task]().scene(streams("new_scenes", seed)[0], "new_scenes").words == words


# ---- demo and doctor


def test_the_demo_removes_no_evaluation(tmp_path):
    (tmp_path / "protocol.json").write_text('{"instruct": "text"}')
    (tmp_path / "episodes.jsonl").write_text("{}")
    with pytest.raises(EvaluateError, match="holds an evaluation"):
        demo.clear(tmp_path)
    assert (tmp_path / "episodes.jsonl").is_file()
    (tmp_path / "protocol.json").write_text(json.dumps({"instruct": demo.IN_TURN}))
    demo.clear(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "holiday.mp4").touch()
    with pytest.raises(EvaluateError, match="or films"):
        demo.clear(tmp_path)
    assert (tmp_path / "videos" / "holiday.mp4").is_file()


def test_the_demo_tells_each_task_both_ways(tmp_path):
    tasks = list(TASKS)[:4]
    jobs = demo.jobs(tasks, 10, 2000, tmp_path)
    ways = {(job.task, job.instruct) for job in jobs}
    assert len(jobs) == len({job.seed for job in jobs}) == 10
    assert {way for _, way in ways} == {"text", "voice"} and {task for task, _ in ways} == set(tasks)


def test_ten_episodes_are_spread_over_the_tasks_with_the_heard_ones_among_them(tmp_path):
    jobs = demo.jobs(list(TASKS), 10, 2000, tmp_path)
    shown = [job.task for job in jobs]
    assert len(set(shown)) == 10 and {task.name for task in HEARD} < set(shown) and {"reach", "store"} & set(shown)
    assert shown == sorted(shown, key=list(TASKS).index) and {job.instruct for job in jobs} == {"text", "voice"}
    for count in range(len(TASKS) + 1):
        assert len(demo.jobs(list(TASKS), count, 2000, tmp_path)) == count == len(demo.spread(list(TASKS), count))


def test_a_checkpoint_is_asked_for_the_tasks_that_it_learned(tmp_path):
    model, processor, config = tiny_model()
    for notes, tasks in (({"tasks": ["pick_up", "reach"]}, ["reach", "pick_up"]), ({}, list(TASKS))):
        checkpoint.save(tmp_path, model, config, processor.tokenizer, notes=notes)
        assert play.task_names([], str(tmp_path)) == tasks
    assert play.task_names(["stack"], str(tmp_path)) == ["stack"] and play.task_names([], "expert") == list(TASKS)
    with pytest.raises(SettingsError, match="juggle"):
        play.task_names(["juggle"])


def test_the_doctor_says_what_to_do_and_survives_a_dead_check():
    def dead():
        raise OSError("libEGL.so.1: cannot open")

    finding = doctor.attempt(dead)
    assert not finding.works and "libEGL" in doctor.line(finding) and "make setup" in doctor.line(finding)
    assert doctor.line(doctor.Finding("flite", False, "not found", "apt-get install flite", False)).startswith("absent")


def test_the_doctor_tries_a_decision_and_looks_for_a_compiler(monkeypatch):
    assert doctor.decision().works and "ms" in doctor.decision().detail
    monkeypatch.setenv("PATH", "")
    assert "g++" in doctor.line(doctor.cplusplus()) and not doctor.cplusplus().works


def test_the_recipe_needs_a_compiler_and_voices_that_others_do_not(monkeypatch):
    monkeypatch.setattr(doctor, "attempt", lambda check, *about: doctor.Finding((*about, check.__name__)[0], True, "", "", False))
    needed = {f.name for f in doctor.examine(".", recipe=True) if f.needed} - {f.name for f in doctor.examine(".") if f.needed}
    assert needed == {"cplusplus", "pico", "festival", "piper", "hibari"}
    monkeypatch.setattr(doctor, "examine", lambda disk, recipe: [doctor.Finding("festival", False, "not found")])
    assert doctor.main(recipe=True) == 1 and doctor.main(recipe=True, without=["festival"]) == 0


def test_setup_replaces_a_pytorch_of_another_build(tmp_path):
    """The Makefile's rule, beside a python that only notes what it is asked for."""
    asked, python = tmp_path / "asked", tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    python.chmod(0o755)

    def setup(*settings):
        asked.write_text("")
        make = ["make", "-C", str(Path(__file__).parent.parent), f"VENV={tmp_path}", *settings, f"{tmp_path}/torch"]
        subprocess.run(make, check=True, capture_output=True)
        return ["--force-reinstall" in line for line in asked.read_text().splitlines() if "pip install" in line]

    assert setup() == [False] and setup() == []  # the CPU build, once
    assert setup("TORCH=torch") == [True, False] and setup("TORCH=torch") == [False]  # its requirements, too
    assert setup("TORCH=torch", "TORCH_INDEX=http://localhost") == [True, False] and setup() == []


def test_an_unmet_requirement_is_named():
    from packaging.requirements import Requirement

    assert doctor.unmet(Requirement("numpy>=1.0")) == []
    assert "found" in doctor.unmet(Requirement("numpy>=99"))[0]
    assert "not installed" in doctor.unmet(Requirement("no-such-distribution-here"))[0]


def test_show_prints_yaml(capsys):
    status, page = said(capsys, "eval", "episodes=3", "--show")
    assert status == 0 and json.dumps(yaml.safe_load(page.out)) and yaml.safe_load(page.out)["episodes"] == 3


def full_disk_of_safetensors():
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")  # as seen


def someone_elses():
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "demos/frames")


@pytest.mark.parametrize("write", (
    pytest.param(lambda: Path("/dev/full").write_text("all of it"),
                 marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")),
    full_disk_of_safetensors, someone_elses))
def test_a_full_disk_and_others_files_are_told_by_whichever_library_meets_them(write, monkeypatch, capsys):
    monkeypatch.setattr(cli, "dispatch", lambda words: write())
    status, page = said(capsys, "collect")
    assert status == 2 and page.err.startswith("soma: ")
    assert "No space left on device" in page.err or "Permission denied: 'demos/frames'" in page.err
