"""Collecting: which episodes are kept, that their rows stand at the right times, interruptions, crashes."""

import json

import numpy as np
import pytest

from agent import checkpoint
from agent.spec import ACTION, IMAGES, STATE
from tests.tiny import tiny_model
from training import collect as collecting
from training.collect import CollectError, Job, Plan, collect
from training.data.assemble import adding
from training.data.damage import check_dataset
from training.data.demos import DatasetError, DemoReader
from training.settings import SettingsError

STUB = "tests.collecting:Counting-v0"


def stub(out, tasks=("easy", "hard"), episodes=6, **kwargs):
    return collect(out, tasks, episodes, env_id=STUB, **{"workers": 1} | kwargs)


def names(out) -> list[str]:
    return sorted(e.info["name"] for e in DemoReader(out).episodes)


WANTED = [f"train-{task}-{seed:08d}" for task, seeds in (("easy", (0, 1, 2)), ("hard", (1, 2, 4))) for seed in seeds]


def test_the_first_seeds_that_succeed_are_kept(tmp_path):
    report = stub(tmp_path)
    assert report == {"easy": {"kept": 3, "failed": 0, "errors": 0}, "hard": {"kept": 3, "failed": 2, "errors": 0}}
    assert names(tmp_path) == WANTED and check_dataset(tmp_path) == []


def test_a_task_that_is_named_twice_has_two_shares(tmp_path):
    report = stub(tmp_path, tasks=["easy", "hard", "easy"], episodes=4)
    assert {task: counts["kept"] for task, counts in report.items()} == {"easy": 3, "hard": 1}


def test_beginnings_are_kept_whatever_comes_of_them(tmp_path):
    report = stub(tmp_path, tasks=["hard"], episodes=3, beginning=3)
    assert report == {"hard": {"kept": 3, "failed": 0, "errors": 0}}
    episodes = DemoReader(tmp_path).episodes
    assert [(e.info["seed"], e.length, e.info["success"]) for e in episodes] == [(0, 3, False), (1, 3, False), (2, 3, False)]


def test_what_a_learner_led_to_is_kept_also_where_it_fails(tmp_path):
    report = stub(tmp_path, tasks=["hard"], episodes=3, learner="expert")
    assert report == {"hard": {"kept": 3, "failed": 0, "errors": 0}}
    assert [(e.info["seed"], e.info["success"]) for e in DemoReader(tmp_path).episodes] == [(0, False), (1, True), (2, True)]


def test_the_number_of_workers_changes_nothing(tmp_path):
    stub(tmp_path / "one")
    stub(tmp_path / "two", workers=2)
    one, two = DemoReader(tmp_path / "one"), DemoReader(tmp_path / "two")
    assert [e.info for e in one.episodes] == [e.info for e in two.episodes]
    for key, values in one.columns().items():
        np.testing.assert_array_equal(values, two.columns()[key])


def test_every_column_stands_at_its_time(tmp_path):
    stub(tmp_path, tasks=["easy"], episodes=3)
    reader = DemoReader(tmp_path)
    for number, episode in enumerate(reader.episodes):
        steps, columns, seed = np.arange(5 + number % 3), reader.episode(number), episode.info["seed"]
        assert episode.length == len(steps) and episode.task == "do easy"
        np.testing.assert_array_equal(columns[STATE], np.stack([steps, np.full_like(steps, seed)], 1))
        np.testing.assert_allclose(columns[ACTION].reshape(-1), steps / 10)
        np.testing.assert_array_equal(columns["annotation.surprise"], steps == 2)
        np.testing.assert_array_equal(columns["annotation.heard"], steps >= 2)
        np.testing.assert_array_equal(columns["annotation.focus"][:, 0], steps)
        brightness = reader.frames(IMAGES + "front", range(episode.start, episode.start + episode.length))
        np.testing.assert_allclose(brightness.mean((1, 2, 3)), 20 * steps, atol=3)
        sound = reader.audio(number)
        levels = sound["world"].reshape(len(steps), 1600)
        np.testing.assert_allclose(levels, np.repeat((steps[:, None] + 1) / 100, 1600, 1), atol=1e-4)
        np.testing.assert_array_equal(sound["voice"], -sound["world"])
        assert episode.info["instruct"] == "voice" and episode.info["heard_at"] == 0.2


def test_goes_on_after_an_interruption(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stub(tmp_path, env={"interrupt_at": 2})
    kept = names(tmp_path)
    assert 0 < len(kept) < 6 and set(kept) < set(WANTED)
    (tmp_path / collecting.PROTOCOL).unlink()  # another world now, without the interruption
    with (tmp_path / collecting.OUTCOMES).open("a") as file:
        file.write('{"name": "train-easy-0')  # cut by a full disk
    stub(tmp_path)
    assert names(tmp_path) == WANTED and check_dataset(tmp_path) == []


def test_two_collections_do_not_add_to_one_dataset_at_once(tmp_path):
    """Joining them, one would sweep away what the other has staged."""
    with adding(tmp_path), pytest.raises(DatasetError, match="by another process; take another out=FOLDER"):
        stub(tmp_path, episodes=2)
    assert not tmp_path.exists()  # neither has added anything
    stub(tmp_path)
    assert names(tmp_path) == WANTED


def test_a_finished_collection_can_grow_and_tries_nothing_twice(tmp_path):
    stub(tmp_path, episodes=2)
    stub(tmp_path)
    assert names(tmp_path) == WANTED
    before = (tmp_path / collecting.OUTCOMES).read_text()
    assert stub(tmp_path)["hard"]["kept"] == 3
    assert (tmp_path / collecting.OUTCOMES).read_text() == before
    tried = [json.loads(line)["name"] for line in before.splitlines()]
    assert len(tried) == len(set(tried)) == 8


def test_what_made_up_for_a_crash_stands(tmp_path):
    """Run again, a finished collection is as it was; asked for more, it tries once more what crashed."""
    kept = {Job("easy", seed, "train").name: "success" for seed in (0, 2, 3)}
    plan = Plan({"easy": 3}, "train", 0, dict(kept))
    assert plan.next_jobs() == [] and plan.report()["easy"]["kept"] == 3
    assert [job.seed for job in Plan({"easy": 4}, "train", 0, dict(kept)).next_jobs()] == [1]
    assert [job.seed for job in Plan({"easy": 3}, "train", 1, dict(kept)).next_jobs()] == [1]


@pytest.mark.parametrize("other", [{"perturb": 0.0}, {"learner": "expert"}, {"beginning": 3}, {"env": {"instruct": "voice"}}])
def test_episodes_that_are_made_otherwise_are_refused(tmp_path, other):
    stub(tmp_path, episodes=2)
    with pytest.raises(SettingsError, match=rf"{next(iter(other.get('env', other)))} was .*, is now .* another out=FOLDER"):
        stub(tmp_path, **other)


def test_who_was_stopped_before_the_first_episode_may_begin_otherwise(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("training.collect.run_plan", stopped)
        with pytest.raises(KeyboardInterrupt):
            stub(tmp_path, episodes=2)
    stub(tmp_path, episodes=2, perturb=0.0)
    with pytest.raises(SettingsError, match="perturb was 0.0, is now"):
        stub(tmp_path, episodes=2)


def test_a_learner_is_known_by_its_weights_wherever_they_are(tmp_path):
    """Practice of weights that were trained on since is another dataset's. (These are of another robot: every episode ends
    in an error, which is a way to see who was let in.)"""
    model, processor, config = tiny_model()
    checkpoint.save(tmp_path / "here", model, config, processor.tokenizer)
    for folder in ("here", "there"):
        with pytest.raises(CollectError, match="the weights were trained with"):
            stub(tmp_path / "practice", learner=str(tmp_path / folder))
        (tmp_path / folder).rename(tmp_path / "there")
    checkpoint.save(tmp_path / "there", tiny_model(seed=1)[0], config, processor.tokenizer)
    with pytest.raises(SettingsError, match="learner was .*, is now"):
        stub(tmp_path / "practice", learner=str(tmp_path / "there"))


def test_crashes_are_errors_and_end_a_hopeless_collection(tmp_path):
    with pytest.raises(CollectError, match="(?s)5 episodes crashed.*broken.*the stub broke"):
        stub(tmp_path, tasks=["easy", "broken"], episodes=10)
    outcomes = [json.loads(line) for line in (tmp_path / collecting.OUTCOMES).read_text().splitlines()]
    assert {o["outcome"] for o in outcomes if "broken" in o["name"]} == {"error"}
    assert all("easy" in name for name in names(tmp_path))


def test_recorded_actions_lead_through_the_recorded_states(tmp_path):
    """In the tabletop: playing an episode's actions from its seed meets its states again."""
    collect(tmp_path, ["reach"], 1, workers=1, perturb=0.0, env={"instruct": "text", "image_size": 32})
    from envs.tabletop.env import TabletopEnv

    reader = DemoReader(tmp_path)
    columns, env = reader.episode(0), TabletopEnv(task="reach", lazy_images=True)
    obs, _ = env.reset(seed=reader.episodes[0].info["seed"])
    for state, action in zip(columns[STATE], columns[ACTION], strict=True):
        np.testing.assert_allclose(obs[STATE], state, atol=1e-5)
        obs, _, _, _, info = env.step(action)
    assert info["success"] and reader.spec == TabletopEnv(image_size=32).robot_spec


def test_a_supervisor_stands_between_the_expert_and_the_arm_in_the_share_that_was_asked_for(tmp_path):
    """Under it the commands are those of an arm that has a limit of acceleration, and so come later."""
    world = {"instruct": "text", "image_size": 32}
    for name, safety in (("plain", 0.0), ("some", 0.5), ("all", 1.0)):
        collect(tmp_path / name, ["reach"], 4, world, workers=1, perturb=0.0, safety=safety)
    readers = {name: DemoReader(tmp_path / name) for name in ("plain", "some", "all")}
    supervised = {name: [e.info["supervised"] for e in reader.episodes] for name, reader in readers.items()}
    assert not any(supervised["plain"]) and all(supervised["all"]) and set(supervised["some"]) == {False, True}
    columns = readers["plain"].spec.state
    joints = [i for i, name in enumerate(columns) if name.startswith("joint_")][:7]
    free, slow = (np.abs(np.diff(readers[name].episode(0)[STATE][:4, joints], 2, axis=0)).max() for name in ("plain", "all"))
    assert slow < free


def test_a_share_of_supervised_episodes_is_between_none_and_all(tmp_path):
    with pytest.raises(CollectError, match="safety=1.5: a share"):
        stub(tmp_path, safety=1.5)
