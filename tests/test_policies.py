"""Rollouts on the real tabletop: chunks are played by time, late ones lose what has passed, policies cannot peek."""

import gymnasium as gym
import numpy as np
import pytest

import envs  # noqa: F401
from agent.spec import AUDIO, IMAGES, STATE, TIME, ActionSpec, Chunk, Spec, SpecError
from policies.base import rollout
from policies.chunking import JointPlayer, NativePlayer
from policies.mmllm import MMLLMPolicy
from policies.scripted import ExpertPolicy
from policies.simple import RandomPolicy, ReplayPolicy


def tabletop(action="joint_position", **kwargs):
    return gym.make("soma/Tabletop-v0", task="pick_up", action=action, lazy_images=True, disable_env_checker=True,
                    **kwargs)


class Blindfold:
    """Counts what a policy is given, and lets the inner one act without drawing images."""

    def __init__(self, policy):
        self.policy, self.samples, self.stamps = policy, [], []

    def reset(self, spec, seed):
        self.policy.reset(spec, seed)

    def act(self, obs):
        self.samples.append(len(obs[AUDIO]))
        self.stamps.append(float(obs[TIME]))
        return self.policy.act(obs)


def test_expert_succeeds_through_the_player():
    env = tabletop()
    episode = rollout(env, ExpertPolicy(env), seed=3, decide_every=1)
    assert episode.success and episode.terminated
    assert len(episode.latencies) == round(episode.seconds * 10)


def test_playing_chunks_equals_stepping_the_environment():
    """A chunk played as a joint trajectory moves the arm as its deltas do one by one."""
    rows = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 5)).astype(np.float32)
    deltas, joints = tabletop("ee_delta"), tabletop()
    deltas.reset(seed=1)
    for row in rows:
        obs, *_ = deltas.step(row)

    class Stop(Exception):
        pass

    class Watch:
        def frame(self, env, seen):
            if abs(float(seen[TIME]) - 2.0) < 1e-6:
                np.testing.assert_allclose(seen[STATE], obs[STATE], atol=1e-5)
                raise Stop

    with pytest.raises(Stop):
        rollout(joints, ReplayPolicy(np.concatenate([rows, rows])), seed=1, decide_every=5, record=Watch())


def test_no_sound_is_lost_or_heard_twice_between_decisions():
    env = tabletop()
    policy = Blindfold(RandomPolicy())
    rollout(env, policy, seed=0, decide_every=3)
    assert policy.samples[0] == 0 and set(policy.samples[1:]) == {3 * 1600}
    np.testing.assert_allclose(np.diff(policy.stamps), 0.3)


def player(blend=0.0):
    world = tabletop().unwrapped
    world.reset(seed=0)
    return JointPlayer(world.arm, world.policy_spec.action, 10.0, world.command, blend), world


def test_a_late_chunk_is_anchored_at_its_stamp_and_loses_what_has_passed():
    forward = np.tile(np.array([0.5, 0, 0, 0, 1], np.float32), (8, 1))
    late, _ = player()
    on_time, _ = player()
    chunk = Chunk(forward, 0.0, 10.0)
    on_time.push(chunk)
    there = [on_time.action(t / 10) for t in range(6)]
    for t in range(3):
        late.action(t / 10)
    late.push(chunk)
    assert np.allclose(late.action(0.3), there[3]) and np.allclose(late.action(0.4), there[4])


def test_a_chunk_that_ran_out_holds():
    one, _ = player()
    one.push(Chunk(np.tile(np.array([0.3, 0.2, 0, 0, 1], np.float32), (3, 1)), 0.0, 10.0))
    targets = [one.action(t / 10) for t in range(6)]
    assert not np.allclose(targets[1], targets[2]) and all(np.allclose(targets[2], t) for t in targets[3:])


def test_blending_goes_from_the_old_to_the_new():
    blended, _ = player(blend=0.4)
    sharp, _ = player()
    for p in (blended, sharp):
        p.push(Chunk(np.tile(np.array([0.5, 0, 0, 0, 1], np.float32), (12, 1)), 0.0, 10.0))
        p.action(0.0)
        p.push(Chunk(np.tile(np.array([-0.5, 0, 0, 0, 1], np.float32), (12, 1)), 0.1, 10.0))
    old = blended.old
    for step in range(1, 8):
        t = (step + 1) / 10
        share = min(1.0, (t - 0.1) / 0.4)
        want = old.at(t)[0] * (1 - share) + sharp.new.at(t)[0] * share
        np.testing.assert_allclose(blended.action(step / 10)[:7], want, atol=1e-9)


def test_native_player_goes_by_time_and_refuses_nonsense():
    action = ActionSpec("native", ("a", "b"), (-1.0, -1.0), (1.0, 1.0))
    native = NativePlayer(action, 20.0)
    rows = np.arange(8).reshape(4, 2) / 10
    native.push(Chunk(rows.astype(np.float32), 1.0, 20.0))
    np.testing.assert_allclose(native.action(1.11), rows[2], atol=1e-6)
    np.testing.assert_allclose(native.action(9.0), rows[3], atol=1e-6)
    with pytest.raises(SpecError, match=r"\(T, 2\)"):
        native.push(Chunk(np.zeros((3, 5)), 0.0, 20.0))
    with pytest.raises(SpecError, match="NaN"):
        native.push(Chunk(np.full((3, 2), np.nan), 0.0, 20.0))


def test_replay_of_another_robot_is_refused():
    with pytest.raises(SpecError, match="7"):
        ReplayPolicy(np.zeros((4, 3))).reset(_spec(7), 0)


def _spec(size: int) -> Spec:
    return Spec({}, ("x",), ActionSpec("native", tuple("abcdefg"[:size]), (-1.0,) * size, (1.0,) * size), 10.0)


@pytest.mark.parametrize("numbers", [{"decide_every": 0}, {"delay_steps": -1}])
def test_numbers_that_do_not_fit_are_refused(numbers):
    env = tabletop()
    with pytest.raises(ValueError, match=next(iter(numbers))):
        rollout(env, RandomPolicy(), seed=0, **numbers)


@pytest.fixture(scope="module")
def mind():
    """An untrained model for the tabletop."""
    import torch
    import yaml

    from agent import checkpoint
    from agent.processor import Processor
    from agent.tokenizer import train_tokenizer
    from tests.tiny import SENTENCES, awaken, tiny_config

    torch.manual_seed(0)
    spec, tokenizer, config = tabletop().unwrapped.policy_spec, train_tokenizer(SENTENCES), tiny_config()
    assert yaml.safe_dump(config)
    model = checkpoint.new_model(config, spec, tokenizer)
    awaken(model)
    return MMLLMPolicy(model, Processor(spec, tokenizer, config["image_size"]))


def test_the_mind_reads_pixels_sound_state_and_words_alone(mind):
    """Hidden simulator state is changed, what is sensed is not: the actions stay bit for bit."""
    env = tabletop().unwrapped
    obs, _ = env.reset(seed=0)
    seen = dict(obs) | env.images()
    mind.reset(env.policy_spec, 0)
    before = mind.act(seen).actions
    env.world.data.qpos[9:] += 0.1
    env.world.data.qvel[:] += 1.0
    env.task.time_limit = 0.1
    mind.reset(env.policy_spec, 0)
    assert np.array_equal(mind.act(seen).actions, before)
    other = dict(seen) | {IMAGES + "front": env.images()[IMAGES + "front"][::-1].copy()}
    mind.reset(env.policy_spec, 0)
    assert not np.array_equal(mind.act(other).actions, before)


def test_the_mind_plays_an_episode_the_same_twice(mind):
    runs = [rollout(tabletop(), mind, seed=5, options={"instruct": "text"}) for _ in range(2)]
    assert runs[0].reward == runs[1].reward and runs[0].seconds == runs[1].seconds


def test_the_mind_refuses_a_robot_that_it_did_not_learn(mind):
    with pytest.raises(SpecError, match="control_hz 10.0, this robot has 20.0"):
        mind.reset(tabletop(control_hz=20.0).unwrapped.policy_spec, 0)
