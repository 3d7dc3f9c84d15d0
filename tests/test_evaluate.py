"""Evaluation: resumed, sharded and parallel runs give the same figures; crashes are errors; handicaps are felt."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import tests.little_world  # registers its environment
from agent.spec import AUDIO, IMAGES, STATE, TASK, TIME, Chunk, SpecError
from policies.wrappers import Blind, Instruct, Mute
from training import evaluate as ev
from training.collect import collect
from training.data.demos import DemoReader
from training.phrases import understand
from training.play import Job, Player, Setting, check_policy, check_split, other_instruction, way_told
from training.replay import Recordings, Replay
from training.settings import SettingsError

SETTING = Setting("random", "little/World-v0", {}, "new_scenes")
TASKS = ("reach", "pick_up")


def run(out, setting=SETTING, episodes=4, **more):
    return ev.evaluate(out, setting, TASKS, episodes, seed=10, videos=0, **more)


def timeless(figures):
    return {key: value for key, value in figures.items() if key != "latency_ms"}


def lines(out):
    return [json.loads(line) for file in out.glob("episodes*.jsonl") for line in file.read_text().splitlines()]


def test_figures_of_a_run(tmp_path):
    figures = run(tmp_path)
    assert figures == json.loads((tmp_path / "results.json").read_text())
    assert figures["tasks"]["reach"] | {"interval": 0} == {
        "successes": 2, "episodes": 4, "errors": 0, "success_rate": 0.5, "interval": 0}
    assert figures["seeds"] == [10, 11, 12, 13] and figures["success_rate"] == 0.5
    assert figures["protocol"]["policy"] == "random"
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p95"] <= figures["latency_ms"]["p99"]
    assert (tmp_path / "report.html").is_file()


def test_a_resumed_run_plays_only_what_is_missing(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", episodes=2)
    before = lines(tmp_path / "parts")
    assert timeless(run(tmp_path / "parts")) == timeless(whole)
    assert lines(tmp_path / "parts")[: len(before)] == before and len(lines(tmp_path / "parts")) == 8


def test_a_line_cut_short_by_a_kill_is_played_again(tmp_path):
    whole = run(tmp_path)
    file = tmp_path / "episodes.jsonl"
    file.write_text(file.read_text()[:-30])
    assert timeless(run(tmp_path)) == timeless(whole)
    assert len(ev.read_records(tmp_path)) == 8


def test_shards_join_to_the_whole(tmp_path):
    whole = run(tmp_path / "whole")
    for i in range(3):
        run(tmp_path / f"{i}", shard=(i, 3))
    for i in (1, 2):
        name = f"episodes-{i}of3.jsonl"
        (tmp_path / "0" / name).write_text((tmp_path / f"{i}" / name).read_text())
    assert timeless(ev.summarise(tmp_path / "0")) == timeless(whole)


def test_a_shard_has_all_tasks_of_its_seeds(tmp_path):
    figures = run(tmp_path, shard=(1, 2))
    assert figures["seeds"] == [11, 13] and {task: of["episodes"] for task, of in figures["tasks"].items()} == {
        "reach": 2, "pick_up": 2}


def test_several_processes_play_what_one_plays(tmp_path):
    setting = replace(SETTING, env_id="tests.little_world:little/World-v0")  # which they have to register, too
    whole = run(tmp_path / "alone", setting)
    assert timeless(run(tmp_path / "together", setting, workers=2)) == timeless(whole)
    assert run(tmp_path / "alone", setting, workers=2) == whole


def test_another_protocol_is_refused_by_name(tmp_path):
    run(tmp_path)
    with pytest.raises(SettingsError, match=r"delay_steps was 0, is now 2"):
        run(tmp_path, replace(SETTING, delay_steps=2))
    with pytest.raises(SettingsError, match=r"device was 'cpu', is now 'cuda'"):
        run(tmp_path, device="cuda")


def test_episodes_of_another_protocol_are_not_joined(tmp_path):
    run(tmp_path / "here")
    run(tmp_path / "late", replace(SETTING, delay_steps=2))
    (tmp_path / "here" / "episodes-more.jsonl").write_bytes((tmp_path / "late" / "episodes.jsonl").read_bytes())
    with pytest.raises(ev.EvaluateError, match="episodes-more.jsonl holds episodes of another protocol"):
        run(tmp_path / "here")


# ---- crashes


@pytest.mark.parametrize("heard_at, listens, expected", [
    (2.0, True, {"told": "voice", "understood": "pick it up"}), (2.0, False, {"told": "voice"}), (0.0, True, {"told": "both"})])
def test_the_words_that_were_understood_are_kept(heard_at, listens, expected):
    world, policy = SimpleNamespace(voice_end=2.0, heard_at=heard_at), SimpleNamespace(listens=listens, spoken="pick it up")
    assert way_told(world, policy) == expected
    assert way_told(world, object()) == {"told": expected["told"]}


def test_a_crash_is_an_error_with_its_traceback_and_no_failure(tmp_path):
    crashing = replace(SETTING, env_kwargs={"crash": [10, 11]})
    figures = run(tmp_path, crashing)
    reach = figures["tasks"]["reach"]
    assert (reach["errors"], reach["episodes"], reach["successes"], reach["success_rate"]) == (2, 4, 1, 0.5)
    errors = [r for r in lines(tmp_path) if r["outcome"] == "error"]
    assert len(errors) == 4 and all("fell apart" in r["error"] and "Traceback" in r["error"] for r in errors)
    assert "fell apart" in (tmp_path / "report.html").read_text()


def test_an_evaluation_that_only_crashes_is_given_up(tmp_path):
    with pytest.raises(ev.EvaluateError, match="(?s)first 5 episodes all crashed.*fell apart"):
        run(tmp_path, replace(SETTING, env_kwargs={"crash": list(range(10, 30))}), episodes=20)
    assert len(lines(tmp_path)) == 5


def test_errors_stay_until_they_are_to_be_tried_again(tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(tests.little_world, "BROKEN", {10})
        run(tmp_path)
    assert run(tmp_path)["tasks"]["reach"]["errors"] == 1
    assert run(tmp_path, retry_errors=True)["tasks"]["reach"]["errors"] == 0
    assert len(ev.read_records(tmp_path)) == 8


# ---- films


def test_films_are_drawn_from_failures_and_half_as_many_successes():
    records = [{"task": "reach", "seed": s, "outcome": ("success", "failure", "error")[s % 3]} for s in range(60)]
    drawn = ev.draw(records, 4)
    assert [r["outcome"] for r in drawn] == ["failure"] * 4 + ["success"] * 2
    assert ev.draw(records[::-1], 4) == drawn
    assert [r["seed"] for r in drawn[:4]] != [1, 4, 7, 10]


def test_films_are_of_the_counted_episodes_and_made_once(tmp_path):
    ev.evaluate(tmp_path, SETTING, TASKS, 4, seed=10, videos=2)
    filmed = ev.read_records(tmp_path, files=ev.FILMS)
    counted = ev.read_records(tmp_path)
    assert len(filmed) == 3 and len(list((tmp_path / "videos").glob("*.mp4"))) == 3
    before = (tmp_path / ev.FILMS).read_text()
    ev.evaluate(tmp_path, SETTING, TASKS, 4, seed=10, videos=2)
    assert (tmp_path / ev.FILMS).read_text() == before
    assert (tmp_path / "report.html").read_text().count("data:video/mp4") == 3
    for key, shown in filmed.items():
        assert {**counted[key], "video": f"{key[0]}-{key[1]}.mp4", "latency_ms": 0} == {**shown, "latency_ms": 0}
    (tmp_path / ev.FILMS).write_text(before.splitlines()[0] + "\n")  # killed before the others were noted
    ev.evaluate(tmp_path, SETTING, TASKS, 4, seed=10, videos=2)
    assert ev.read_records(tmp_path, files=ev.FILMS).keys() == filmed.keys()


def test_films_of_an_evaluation_that_grew_are_those_of_the_whole(tmp_path):
    for episodes in (4, 8, 16):
        ev.evaluate(tmp_path / "grown", SETTING, TASKS, episodes, seed=10, videos=2)
    ev.evaluate(tmp_path / "whole", SETTING, TASKS, 16, seed=10, videos=2)
    filmed = [ev.read_records(tmp_path / name, files=ev.FILMS).keys() for name in ("grown", "whole")]
    assert filmed[0] == filmed[1]
    assert len(list((tmp_path / "grown" / "videos").glob("*.mp4"))) == 3
    ev.evaluate(tmp_path / "grown", SETTING, TASKS, 17, seed=10, videos=0)  # asks for none, and takes none away
    assert ev.read_records(tmp_path / "grown", files=ev.FILMS).keys() == filmed[0]


def test_a_film_that_cannot_be_written_ends_nothing(tmp_path):
    (tmp_path / "videos").write_text("in the way of the folder")
    figures = ev.evaluate(tmp_path, SETTING, TASKS, 4, seed=10, videos=4)
    assert figures["success_rate"] == 0.5 and (tmp_path / "report.html").is_file()
    filmed = ev.read_records(tmp_path, files=ev.FILMS).values()
    assert len(filmed) == 6 and {r["outcome"] for r in filmed} == {"error"} and all("videos" in r["error"] for r in filmed)


# ---- what was recorded


def test_a_recorded_episode_is_played_again_as_it_was(tmp_path):
    """With the kicks of the arm, the voice and the supervisor that it had; only what was recorded is played."""
    world = {"image_size": 32, "instruct": "mixed"}
    collect(tmp_path / "demos", ["reach", "pick_up"], 4, world, workers=1, perturb=0.5, safety=0.5)
    recorded = [e.info for e in DemoReader(tmp_path / "demos").episodes]
    for safety in {info["supervised"] for info in recorded}:
        setting = Setting(f"replay:{tmp_path / 'demos'}", "soma/Tabletop-v0", {"image_size": 32}, "train", safety=safety)
        ev.evaluate(tmp_path / f"{safety}", setting, TASKS, 9, seed=0, videos=0)
        played = ev.read_records(tmp_path / f"{safety}").values()
        same = {(i["task_name"], i["seed"], i["instruct"]) for i in recorded if i["supervised"] == safety}
        assert {(r["task"], r["seed"], r["told"]) for r in played} == same
        assert all(r["outcome"] == "success" for r in played)
    with pytest.raises(SettingsError, match="no episode of reach, seed=0 split=shift safety=.*; it has .*split=train"):
        ev.evaluate(tmp_path / "out", replace(setting, split="shift"), TASKS, 9, seed=0)
    assert not (tmp_path / "out").exists()
    replay = Replay(tmp_path / "demos")
    replay.choose(next(iter(replay.recordings.episodes)))
    with pytest.raises(SpecError, match="was recorded with control_hz 10.0, this robot has 25.0"):
        replay.reset(replace(replay.recordings.reader.spec, control_hz=25.0), 0)


def test_what_a_learner_led_to_is_not_replayed(tmp_path):
    collect(tmp_path, ["easy"], 1, env_id="tests.collecting:Counting-v0", workers=1, learner="expert")
    with pytest.raises(SettingsError, match="a learner drove"):
        Recordings(tmp_path)


def test_beginnings_are_not_replayed(tmp_path):
    collect(tmp_path, ["easy"], 1, env_id="tests.collecting:Counting-v0", workers=1, beginning=3)
    with pytest.raises(SettingsError, match="broken off after 3 steps"):
        Recordings(tmp_path)


# ---- handicaps


class Watcher:
    """Remembers what it is given."""

    def reset(self, spec, seed):
        self.spec, self.given = spec, seed

    def act(self, obs):
        self.obs = obs
        return Chunk(np.zeros((1, 2), np.float32), float(obs[TIME]), 10.0)


OBS = {IMAGES + "front": np.ones((4, 4, 3), np.uint8), AUDIO: np.ones((8, 2), np.float32),
       STATE: np.ones(3, np.float32), TASK: "reach the red cube", TIME: np.array(0.3)}


@pytest.mark.parametrize("wrap, key, left", [(Mute, AUDIO, 0), (Blind, IMAGES + "front", 0)])
def test_a_handicap_takes_one_sense_and_leaves_the_others(wrap, key, left):
    watcher = Watcher()
    policy = wrap(watcher)
    policy.reset("spec", 5)
    policy.act(OBS)
    assert (watcher.spec, watcher.given) == ("spec", 5)
    assert np.all(watcher.obs[key] == left) and watcher.obs[key].shape == OBS[key].shape
    assert watcher.obs[key].dtype == OBS[key].dtype and np.all(OBS[key] == 1)
    assert all(watcher.obs[other] is OBS[other] for other in OBS if other != key)


def test_another_instruction_is_of_another_task():
    watcher = Watcher()
    for seed in range(20):
        text = other_instruction(Job("reach", seed), "new_scenes")
        Instruct(watcher, text).act(OBS)
        assert watcher.obs[TASK] == text and understand(text)[0] != "reach"
    assert other_instruction(Job("reach", 3), "train") == other_instruction(Job("reach", 3), "train")


def test_handicaps_of_a_setting_reach_the_policy():
    player = Player(replace(SETTING, mute=True, blind=True, swap_instruction=True))
    player.policy = watcher = Watcher()
    record = player(Job("reach", 0))
    assert record["outcome"] == "success" and record["instruction"] == other_instruction(Job("reach", 0), "new_scenes")
    assert not watcher.obs[AUDIO].any() and not watcher.obs[IMAGES + "eye"].any()
    assert watcher.obs[TASK] == other_instruction(Job("reach", 0), "new_scenes")


@pytest.mark.parametrize("wrong", [{"decide_every": 0}, {"delay_steps": -1}, {"blend": -0.1}])
def test_what_cannot_be_played_is_refused(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        check_policy(replace(SETTING, **wrong), "text")


def test_a_synthesiser_that_is_missing_is_named_before_anything_is_played(monkeypatch):
    monkeypatch.setattr("envs.tabletop.voices.available_engines", lambda: ("espeak",))
    check_split("new_voices", "text")
    with pytest.raises(SettingsError, match="apt-get install flite"):
        check_split("new_voices", "voice")


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(SettingsError, match="expert"):
        check_policy(replace(SETTING, policy="expert", mute=True), "text")
    with pytest.raises(SettingsError, match="instruct=text"):
        check_policy(replace(SETTING, env_id="soma/Tabletop-v0", swap_instruction=True), "voice")
    for asked in ({"swap_instruction": True}, {"safety": True}, {"blend": 0.2}, {"policy": "replay:folder"}):
        with pytest.raises(SettingsError, match=f"{next(iter(asked))}=.*: an environment of soma/ is needed, not little"):
            check_policy(replace(SETTING, **asked), "text")


def test_an_environment_that_describes_no_robot_is_refused():
    with pytest.raises(SettingsError, match="env.id=CartPole-v1: it describes no robot"):
        check_policy(replace(SETTING, env_id="CartPole-v1"), "text")


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "1/0"])
def test_shards_are_index_and_count(text):
    assert ev.shard_of("1/2") == (1, 2)
    with pytest.raises(SettingsError, match="INDEX/COUNT"):
        ev.shard_of(text)
