"""The stages as a user runs them, small: demonstrations, training with rounds of practice, an episode."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from agent import checkpoint
from agent.spec import ACTION, IMAGES, STATE, ActionSpec, Spec, SpecError
from agent.tokenizer import encode
from envs.tabletop.env import TabletopEnv
from policies.mmllm import MMLLMPolicy
from tests.tiny import tiny_model
from training import settings, stages
from training.collect import CollectError, collect
from training.data import lerobot_format as form
from training.data.damage import check_dataset
from training.data.demos import DemoReader
from training.stages import shared_spec, start, train, with_practice
from training.train import TrainError

WORLD = {"image_size": 32, "instruct": "text"}
SMALL = ["model.image_size=32", "model.vision.width=16", "model.vision.inner=16",
         "+model.audio.hidden=16", "+model.audio.width=16", "model.backbone.lm.width=32", "model.backbone.lm.depth=1",
         "model.backbone.lm.heads=2", "model.backbone.lm.feed=48", "model.generator.width=32", "model.generator.feed=48",
         "model.projectors.front.factor=2", "model.projectors.wrist.factor=2"]  # fmt: skip


def test_practice_is_collected_and_trained_on(tmp_path, monkeypatch):
    """stage=dagger: stops at each round, lets the learner drive, goes on with what came of it, and with the model (which may
    have taken minutes to compile); done again, it is done."""
    models = []
    monkeypatch.setattr(stages, "start", lambda *args: models.append(start(*args)) or models[-1])
    demos, out = tmp_path / "demos", tmp_path / "out"
    collect(demos, ["reach"], 2, WORLD, workers=1)
    words = ["stage=dagger", f"data={demos}", f"out={out}", "stage.rounds=[1,2]", "stage.episodes=1", "threads=1",
             "stage.schedule.steps=3", "stage.schedule.workers=0", "stage.batch=2", "+stage.env.kwargs.image_size=32",
             "stage.env.kwargs.instruct=text"]
    for n in range(2):
        weights = train(settings.compose("train", words + SMALL))
        assert json.loads((out / "resume" / "step.json").read_text())["step"] == 3 and len(models) == n + 1
    assert (weights / "model.safetensors").is_file()
    rounds = [DemoReader(out / f"practice_{n}") for n in (1, 2)]
    assert [r.episodes[0].info["seed"] >= 100000 * n for n, r in enumerate(rounds, 1)] == [True, True]
    surprise = np.concatenate([r.columns()["annotation.surprise"] for r in rounds])
    assert surprise.any() and not surprise.all()  # frames that the learner drove, and frames of the expert


def test_a_run_goes_on_with_its_own_settings_alone(tmp_path, capsys):
    demos, out = tmp_path / "demos", tmp_path / "out"
    collect(demos, ["reach"], 1, WORLD, workers=1, beginning=8)
    words = [f"data={demos}", f"out={out}", "threads=1", "stage.schedule.workers=0", "stage.batch=1", *SMALL]
    weights = train(settings.compose("train", [*words, "stage.schedule.steps=1"]))
    before = (weights / "model.safetensors").read_bytes()
    with pytest.raises(settings.SettingsError, match="rate was 0.001, is now 0.1"):
        train(settings.compose("train", [*words, "stage.schedule.rate=0.1", "stage.schedule.steps=2"]))
    collect(demos, ["reach"], 2, WORLD, workers=1, beginning=8)
    with pytest.raises(settings.SettingsError, match="episodes in .* was 1, is now 2"):
        train(settings.compose("train", [*words, "stage.schedule.steps=2"]))
    assert (weights / "model.safetensors").read_bytes() == before
    shutil.rmtree(demos)
    collect(demos, ["reach"], 1, WORLD, workers=1, beginning=8)
    more = settings.compose("train", [*words, "processes=2", "stage.batch=2"])  # other batches, of other numbers
    assert {"processes", "stage.batch"} == {key for key, value in stages.protocol(more).items()
                                            if value != json.loads((out / "train.json").read_text())[key]}
    train(settings.compose("train", [*words, "stage.schedule.steps=1"]))
    assert "trained for 1 steps already" in capsys.readouterr().out
    train(settings.compose("train", [*words, "stage.schedule.steps=2"]))
    assert json.loads((out / "resume" / "step.json").read_text())["step"] == 2
    moved = {name.split(".")[0] for name in load_file(out / "resume" / "2" / "average.safetensors")}
    assert "vision" in moved and "speech" not in moved  # the recogniser has its own stage


def test_each_process_needs_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainError, match="processes=2: each needs a GPU of its own, and there is 1; processes=1 will do"):
        train(settings.compose("train", ["processes=2", f"out={tmp_path}"]))


def test_two_processes_share_decoding_and_training(tmp_path):
    demos, out = tmp_path / "demos", tmp_path / "out"
    collect(demos, ["reach"], 1, WORLD, workers=1, beginning=8)
    words = [f"data={demos}", f"out={out}", "threads=2", "processes=2", "stage.schedule.workers=0", "stage.batch=2",
             "stage.schedule.steps=1", *SMALL]
    model, *_ = checkpoint.load(train(settings.compose("train", words)))
    assert all(value.isfinite().all() for value in model.parameters())
    reader = DemoReader(demos)
    for key in (IMAGES + "front", IMAGES + "wrist"):
        decoded = np.load(demos / "frames" / f"{key}.32.npy")
        np.testing.assert_array_equal(decoded, reader.frames(key, range(reader.length)))


def test_a_sense_more_is_recorded_learned_and_acted_on(tmp_path):
    """Wrist force by its YAML alone: collected, its statistics and weights trained, asked for when the weights play."""
    world = WORLD | {"force": True}
    demos, out = tmp_path / "demos", tmp_path / "out"
    collect(demos, ["press_button"], 2, world, workers=1)
    forces = DemoReader(demos).columns()["observation.force"]
    assert forces.shape[1] == 3 and forces.std() > 0.01
    words = ["model=pocket_force", f"data={demos}", f"out={out}", "threads=1", "stage.schedule.steps=2",
             "stage.schedule.workers=0", "stage.batch=2"]
    model, processor, _ = checkpoint.load(train(settings.compose("train", words + SMALL)))
    np.testing.assert_allclose(model.senses["force"].normalize.high, np.percentile(forces, 99.5, axis=0), atol=0.05)
    policy = MMLLMPolicy(model, processor)
    with pytest.raises(SpecError, match="senses"):
        policy.reset(TabletopEnv(**WORLD).robot_spec, 0)
    env = TabletopEnv("press_button", **world)
    obs, _ = env.reset(seed=0)
    policy.reset(env.robot_spec, 0)
    assert policy.act(obs).actions.shape == (model.horizon, 5)


def test_weights_that_exist_take_on_a_sense_and_a_horizon_and_keep_what_they_know(tmp_path):
    """Recorded with other pictures and with microphones elsewhere, as a recording of a robot is."""
    demos = tmp_path / "demos"
    collect(demos, ["press_button"], 2, WORLD | {"force": True}, workers=1)
    about = json.loads((demos / form.SOMA).read_text())
    about["spec"] |= {"microphones": [[0.0, 0.0, 0.0]] * 2, "action": about["spec"]["action"] | {"workspace": None}}
    (demos / form.SOMA).write_text(json.dumps(about))
    words = ["init=pocket", "model=pocket_force", "model.horizon=12", f"data={demos}", f"out={tmp_path / 'out'}", "threads=1",
             "stage.schedule.steps=1", "stage.schedule.workers=0", "stage.batch=1"]
    model, _, page = checkpoint.load(train(settings.compose("train", [*words, f"frames={tmp_path / 'frames'}"])))
    assert not (demos / "frames").exists() and any((tmp_path / "frames").glob("demos-*/*.npy"))
    before, _, first = checkpoint.load("pocket")
    assert model.horizon == 12 and set(model.senses) == {"force"} and len(model.backbone.layers) == len(before.backbone.layers)
    assert page["model"]["backbone"] == first["model"]["backbone"]
    assert torch.equal(model.normalize_state.low, before.normalize_state.low)
    forces = DemoReader(demos).columns()["observation.force"]
    np.testing.assert_allclose(model.senses["force"].normalize.high, np.percentile(forces, 99.5, axis=0), atol=0.05)


def test_what_is_as_in_init_though_it_is_otherwise_by_default_is_said():
    words = {"backbone": {"lm": {"depth": 3}}}  # which cannot be asked for at all
    asked = {"horizon": 8, "vision": {"depth": 1, "blocks": 1}}
    ours = stages.kept({"horizon": 8, "vision": {"depth": 2}} | words, asked)
    assert ours == ["model.vision.depth=2", "model.vision.blocks=None"]
    assert stages.kept(asked | words, asked) == []


def test_a_part_of_another_class_takes_nothing_over_beside_init():
    cfg = settings.compose("train", ["init=pocket", "model.generator._target_=agent.generators.action_tokens.Bins",
                                     "~model.generator.draws", "~model.generator.steps", "model.backbone.tune=lora"])
    known = checkpoint.page(checkpoint.find("pocket"))["model"]
    new = stages.changed(known, cfg)
    assert set(new["generator"]) == {"_target_", "width", "feed"} and new["backbone"] == known["backbone"] | {"tune": "lora"}
    assert {key for key in known if known[key] != new[key]} == {"generator", "backbone"}
    assert stages.changed(known, settings.compose("train", ["init=pocket"])) == known


def test_the_shipped_weights_learn_from_data_of_another_robot(tmp_path):
    """Another rate, one camera, four state and four action values, no sound, written by lerobot: what fits of pocket is
    taken over, and the result acts as that robot does."""
    elsewhere = Path(__file__).parent / "data" / "metaworld_v3"
    shutil.copytree(elsewhere, tmp_path / "data")
    words = [f"data={tmp_path / 'data'}", "init=pocket", f"out={tmp_path / 'out'}", "threads=1", "stage.schedule.steps=2",
             "stage.schedule.workers=0", "stage.batch=2"]
    model, processor, _ = checkpoint.load(train(settings.compose("train", words)))
    reader = DemoReader(elsewhere)
    assert model.spec == reader.spec and model.spec.control_hz == 80 and model.audio is None
    before = checkpoint.load("pocket")[0].vision.stem[0].weight
    assert (model.vision.stem[0].weight - before).abs().max() < 0.01
    frame = reader.frames("observation.images.corner", [0])[0]
    policy = MMLLMPolicy(model, processor)
    policy.reset(reader.spec, 0)
    chunk = policy.act({"observation.images.corner": frame, "observation.state": reader.columns()["observation.state"][0],
                        "task": reader.episodes[0].task, "timestamp": 0.0})
    assert chunk.actions.shape == (model.horizon, 4) and chunk.hz == 80


def with_one_eye_and_one_motor(root):
    """The dataset from elsewhere as others are written: `observation.image`, no state, an action of one value."""
    old, new = "observation.images.corner", "observation.image"
    shutil.copytree(Path(__file__).parent / "data" / "metaworld_v3", root)
    (root / "videos" / old).rename(root / "videos" / new)
    for path in root.rglob("*.parquet"):
        table = pq.read_table(path)
        table = table.rename_columns([name.replace(old, new) for name in table.column_names])
        if "action" in table.column_names:
            first = pa.array([row[0] for row in table["action"].to_pylist()], pa.float32())
            table = table.drop_columns([STATE, ACTION]).append_column(ACTION, first)
        pq.write_table(table, path)
    for name in ("info", "stats"):
        content = json.loads((root / "meta" / f"{name}.json").read_text())
        of = content["features"] if name == "info" else content
        of[new] = of.pop(old)
        del of[STATE]
        of[ACTION] = of[ACTION] | {"shape": [1], "names": None} | {k: v[:1] for k, v in of[ACTION].items() if name == "stats"}
        (root / "meta" / f"{name}.json").write_text(json.dumps(content))
    return root


def test_a_robot_with_one_nameless_camera_no_state_and_one_motor_is_learned_from_nothing(tmp_path):
    data = with_one_eye_and_one_motor(tmp_path / "data")
    assert check_dataset(data) == []
    words = [f"data={data}", f"out={tmp_path / 'out'}", "threads=1", "stage.schedule.steps=1", "stage.schedule.workers=0",
             "stage.batch=2"]
    model, processor, _ = checkpoint.load(train(settings.compose("train", words + SMALL)))
    assert model.spec == DemoReader(data).spec and model.spec.state == () and list(model.spec.cameras) == ["image"]
    policy = MMLLMPolicy(model, processor)
    policy.reset(model.spec, 0)
    chunk = policy.act({IMAGES + "image": np.zeros((84, 84, 3), np.uint8), STATE: np.zeros(0, np.float32), "task": "go",
                        "timestamp": 0.0})
    assert chunk.actions.shape == (model.horizon, 1) and np.isfinite(chunk.actions).all()


def test_statistics_are_those_of_all_datasets_however_small_one_is(tmp_path):
    """Without, the larger actions of the second would be cut in silence."""
    one, other = (Path(shutil.copytree(Path(__file__).parent / "data" / "metaworld_v3", tmp_path / name)) for name in "ab")
    path = DemoReader(other).episodes[0].data
    table = pq.read_table(path)
    for key in (STATE, ACTION):
        wider = pa.array((20 * np.array(table[key].to_pylist())).tolist(), pa.list_(pa.float32(), 4))
        table = table.set_column(table.column_names.index(key), key, wider)
    pq.write_table(table, path)
    words = [f"data={one},{other}", f"out={tmp_path / 'out'}", "threads=1", "stage.schedule.steps=1",
             "stage.schedule.workers=0", "stage.batch=2"]
    model, *_ = checkpoint.load(train(settings.compose("train", words + SMALL)))
    for folder in (one, other):
        columns = DemoReader(folder).columns()
        for normalize, key in ((model.normalize_state, STATE), (model.normalize_action, ACTION)):
            low, high = np.percentile(columns[key], [0.5, 99.5], axis=0)
            assert (normalize.low.numpy() <= low + 1e-5).all() and (normalize.high.numpy() >= high - 1e-5).all()


def test_a_recogniser_is_trained_and_learns_which_word_follows_which(tmp_path):
    model, processor, config = tiny_model()
    checkpoint.save(tmp_path / "first", model, config, processor.tokenizer)
    words = ["stage=hearing", f"init={tmp_path / 'first'}", f"data={tmp_path / 'voices'}", f"out={tmp_path / 'out'}",
             "stage.sentences=6", "stage.batch=2", "stage.voices={espeak: 1, pico: 0, festival: 0, piper: 0, hibari: 0}",
             "stage.schedule.steps=2", "stage.schedule.workers=0", "threads=1"]
    heard, *_ = checkpoint.load(train(settings.compose("train", words)))
    old, new = model.state_dict(), heard.state_dict()
    changed = {name.split(".")[0] for name in new if name in old and not torch.equal(new[name], old[name])}
    assert changed == {"speech"}
    the, red = (encode(processor.tokenizer, word)[-1] for word in ("the", "red"))
    assert heard.speech.language.score([the], red) > heard.speech.language.score([red], the)


def test_datasets_of_one_robot_from_elsewhere_are_bounded_by_all_that_was_seen():
    def spec(low, high, names=("a", "b"), kind="native"):
        return Spec({"front": (8, 8)}, ("x",), ActionSpec(kind, names, low, high), 10.0)

    one, other = spec((-1.0, 0.0), (1.0, 1.0)), spec((-2.0, 0.5), (0.5, 3.0))
    assert shared_spec(["one", "other"], [one, other]) == spec((-2.0, 0.0), (1.0, 3.0))
    for wrong in (spec((0.0,), (1.0,), ("a",)), replace(one, control_hz=5.0)):
        with pytest.raises(TrainError, match="another robot than one: two"):
            shared_spec(["one", "two"], [one, wrong])
    elsewhere = replace(other, cameras={"front": (16, 16)}, action=replace(other.action, workspace=((0.0,) * 3, (1.0,) * 3)))
    assert shared_spec(["one", "elsewhere"], [one, elsewhere]) == spec((-2.0, 0.0), (1.0, 3.0))
    mine = spec((-1.0, -1.0), (1.0, 1.0), kind="joint_position")
    with pytest.raises(TrainError, match="two"):
        shared_spec(["one", "two"], [mine, replace(mine, action=replace(mine.action, low=(-2.0, -1.0)))])


def test_practice_has_its_share():
    assert with_practice([30, 10], 0.6, 3) == pytest.approx([0.3, 0.1, 0.2, 0.2, 0.2])
    assert with_practice([1, 1], 0.6, 1) == pytest.approx([0.2, 0.2, 0.6])


@pytest.mark.parametrize("rounds", ["[0,2]", "[2,1]", "[1,3]"])
def test_rounds_that_cannot_be_are_refused(tmp_path, rounds):
    collect(tmp_path / "demos", ["reach"], 1, WORLD, workers=1)
    words = ["stage=dagger", f"data={tmp_path / 'demos'}", f"out={tmp_path / 'out'}", f"stage.rounds={rounds}",
             "stage.schedule.steps=3", "threads=1"]
    with pytest.raises(TrainError, match="below the schedule's 3"):
        train(settings.compose("train", words + SMALL))


@pytest.mark.parametrize("word, why", [("stage.tasks=[pickup]", "no task 'pickup'; did you mean pick_up"),
                                       ("stage.episodes=0", "episodes=0: at least 1"), ("stage.safety=2", "safety=2: a share"),
                                       ("+stage.env.kwargs.size=3", "size"),
                                       ("model=pocket_force", "trained with senses .*force.*, this robot has {}")])
def test_practice_that_cannot_be_is_refused_before_anything_is_learned(tmp_path, word, why):
    collect(tmp_path / "demos", ["reach"], 1, WORLD | {"force": True}, workers=1, beginning=8)
    words = ["stage=dagger", f"data={tmp_path / 'demos'}", f"out={tmp_path / 'out'}", "stage.rounds=[1]", "threads=1",
             "stage.schedule.steps=3", "stage.schedule.workers=0", "stage.batch=1", "+stage.env.kwargs.image_size=32"]
    with pytest.raises((ValueError, CollectError), match=why):
        train(settings.compose("train", [*words, *SMALL, word]))
    assert not (tmp_path / "out").exists()


def test_a_run_that_began_with_other_weights_is_refused(tmp_path):
    collect(tmp_path / "demos", ["reach"], 1, WORLD, workers=1, beginning=8)
    model, processor, config = tiny_model()
    words = [f"data={tmp_path / 'demos'}", f"out={tmp_path / 'out'}", f"init={tmp_path / 'first'}", "threads=1",
             "stage.schedule.workers=0", "stage.batch=1", "stage.schedule.steps=1"]
    for seed in (0, 1):
        checkpoint.save(tmp_path / "first", tiny_model(seed=seed)[0], config, processor.tokenizer)
        if seed == 0:
            train(settings.compose("train", words))
    with pytest.raises(settings.SettingsError, match="init was '[0-9a-f]{32}', is now"):
        train(settings.compose("train", words))


def test_a_model_without_ears_has_no_recogniser_to_train(tmp_path):
    model, processor, config = tiny_model()
    config["speech"] = None
    deaf = checkpoint.new_model(config, model.spec, processor.tokenizer)
    checkpoint.save(tmp_path / "deaf", deaf, config, processor.tokenizer)
    words = ["stage=hearing", f"init={tmp_path / 'deaf'}", f"data={tmp_path / 'voices'}", f"out={tmp_path / 'out'}", "threads=1"]
    with pytest.raises(TrainError, match="no recogniser; it needs `speech` in its YAML"):
        train(settings.compose("train", words))
    with pytest.raises(TrainError, match="at least one voice is needed"):
        train(settings.compose("train", [*words, *(f"stage.voices.{name}=0" for name in stages.LEARNED_FROM)]))
    assert not (tmp_path / "voices").exists()


def test_an_unknown_stage_is_named():
    with pytest.raises(TrainError, match="'dance': allowed are demos, dagger, hearing"):
        train({"stage": {"kind": "dance"}})
    with pytest.raises(TrainError, match="3 processes cannot share a batch of 8"):
        train({"stage": {"kind": "demos", "batch": 8}, "processes": 3, "threads": 2})


@pytest.mark.parametrize("threads, gpus, batch, processes", [(2, 0, 8, 2), (3, 0, 8, 2), (12, 0, 8, 8), (12, 0, 4, 4),
                                                           (2, 1, 8, 1), (2, 4, 16, 4)])
def test_without_being_asked_each_gpu_or_thread_has_a_process(threads, gpus, batch, processes, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert stages.processes_of({"stage": {"batch": batch}, "processes": None, "threads": threads}) == processes
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert stages.processes_of({"stage": {"batch": batch}, "processes": None, "threads": threads}) == 4
    with pytest.raises(TrainError, match="processes=2: a launcher has started 4"):
        stages.processes_of({"stage": {"batch": batch}, "processes": 2, "threads": threads})


def test_synthesisers_that_are_missing_or_never_trained_on_are_named_at_once(monkeypatch):
    cfg = settings.compose("train", ["stage=hearing", "init=pocket", "threads=1"])
    cfg["stage"]["voices"] = {"espeak": 1, "flite": 1}
    with pytest.raises(TrainError, match="voices of flite: allowed are espeak, pico, festival, piper, hibari"):
        train(cfg)
    monkeypatch.setattr("training.stages.available_engines", lambda: ("espeak",))
    cfg["stage"]["voices"] = {"espeak": 1, "pico": 2, "festival": 0}
    with pytest.raises(TrainError, match="pico needs the Python package ttspico.*or stage.voices.pico=0"):
        train(cfg)
