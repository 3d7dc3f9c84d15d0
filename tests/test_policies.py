"""Rollouts on the real tabletop: chunks are played by time, late ones lose what has passed, policies cannot peek."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import envs  # noqa: F401
from agent.spec import AUDIO, STATE, TASK, TIME, ActionSpec, Chunk, Spec, SpecError
from envs.arm import PANDA, JointState, ee_delta_action
from envs.tabletop.env import TabletopEnv
from policies.base import rollout
from policies.chunking import Fade, JointPlayer, NativePlayer
from policies.scripted import ExpertPolicy, TakeOver, turns
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
    episode = rollout(env, ExpertPolicy(env), seed=3)
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


class Robot:
    """Reaches every command."""

    def __init__(self):
        self.command = JointState(0.0, PANDA.home, 0.08)

    def play(self, player: JointPlayer, now: float) -> np.ndarray:
        target = player.action(now)
        self.command = JointState(now + 0.1, target[:7], float(target[7]))
        return target


def player(blend=0.0):
    robot = Robot()
    action = ee_delta_action(((0.28, -0.32, 0.01), (0.68, 0.32, 0.45)))
    return JointPlayer(PANDA, action, 10.0, lambda: robot.command, blend), robot


def chunk(dx=0.5, steps=8, stamp=0.0, dy=0.0) -> Chunk:
    return Chunk(np.tile(np.array([dx, dy, 0, 0, 1], np.float32), (steps, 1)), stamp, 10.0)


def test_a_late_chunk_is_anchored_at_its_stamp_and_loses_what_has_passed():
    (late, slow), (on_time, robot) = player(), player()
    on_time.push(chunk(), 0.0)
    there = [robot.play(on_time, t / 10) for t in range(6)]
    for t in range(3):
        slow.play(late, t / 10)
    late.push(chunk(), 0.3)
    assert np.allclose(slow.play(late, 0.3), there[3]) and np.allclose(slow.play(late, 0.4), there[4])


def test_a_late_chunk_that_blends_never_jumps():
    late, robot = player(blend=0.4)
    for t in range(3):
        robot.play(late, t / 10)
    late.push(chunk(dx=1.0), 0.3)
    targets = np.array([robot.play(late, t / 10)[:7] for t in range(3, 9)])
    moves = np.abs(np.diff(np.vstack([PANDA.home, targets]), axis=0)).max(1)
    sharp = np.abs(targets[-1] - PANDA.home).max() / 6
    assert moves.max() < 1.8 * sharp, "the jump of four steps was not spread"


def test_a_chunk_that_ran_out_holds():
    one, robot = player()
    one.push(chunk(0.3, 3, dy=0.2), 0.0)
    targets = [robot.play(one, t / 10) for t in range(6)]
    assert not np.allclose(targets[1], targets[2]) and all(np.allclose(targets[2], t) for t in targets[3:])


def test_blending_goes_from_the_old_to_the_new():
    (blended, a), (sharp, b) = player(blend=0.4), player()
    for p, robot in ((blended, a), (sharp, b)):
        p.push(chunk(0.5, 12), 0.0)
        robot.play(p, 0.0)
        old = p.playing
        p.push(chunk(-0.5, 12, stamp=0.1), 0.1)
    for step in range(1, 8):
        end = (step + 1) / 10
        share = min(1.0, (end - 0.1) / 0.4)
        want = old.at(end)[0] * (1 - share) + sharp.playing.at(end)[0] * share
        np.testing.assert_allclose(a.play(blended, step / 10)[:7], want, atol=1e-9)


def test_what_has_faded_out_is_not_kept():
    """A fade that is longer than the time between two decisions begins in the one before."""
    blended, robot = player(blend=0.5)
    for t in range(60):
        blended.push(chunk((-1) ** t * 0.3, 12, stamp=t / 10), t / 10)
        robot.play(blended, t / 10)
    depth, faded = 0, blended.playing
    while isinstance(faded, Fade):
        depth, faded = depth + 1, faded.old
    assert 1 < depth <= 6


def test_without_an_overlap_blending_changes_nothing():
    """One-step chunks, as an expert gives them, must not be slowed down by a hold that fades out."""
    (blended, a), (sharp, b) = player(blend=0.4), player()
    for t in range(5):
        blended.push(chunk(steps=1, stamp=t / 10), t / 10)
        sharp.push(chunk(steps=1, stamp=t / 10), t / 10)
        np.testing.assert_allclose(a.play(blended, t / 10), b.play(sharp, t / 10), atol=1e-12)


@pytest.mark.parametrize("blend", [0.0, 0.4])
def test_a_chunk_starts_from_what_the_robot_was_really_told(blend):
    """Something else (a safety stop, a push) commanded the arm after the last action; it goes on from there, not from where
    the chunk before would have led."""
    one, robot = player(blend)
    robot.play(one, 0.0)
    moved = PANDA.home + 0.05
    robot.command = JointState(0.1, moved, 0.03)
    np.testing.assert_allclose(one.action(0.1), [*moved, 0.03])
    one.push(chunk(dx=0.0, stamp=0.1), 0.1)
    np.testing.assert_allclose(one.playing.start.position, moved)


def test_native_player_goes_by_time_and_refuses_nonsense():
    action = ActionSpec("native", ("a", "b"), (-1.0, -1.0), (1.0, 1.0))
    native = NativePlayer(action, 20.0)
    rows = np.arange(8).reshape(4, 2) / 10
    native.push(Chunk(rows.astype(np.float32), 1.0, 20.0), 1.0)
    np.testing.assert_allclose(native.action(1.11), rows[2], atol=1e-6)
    np.testing.assert_allclose(native.action(9.0), rows[3], atol=1e-6)
    np.testing.assert_allclose([native.action(1 + i / 20)[0] for i in range(4)], rows[:, 0], atol=1e-6)
    with pytest.raises(SpecError, match=r"\(T, 2\)"):
        native.push(Chunk(np.zeros((3, 5)), 0.0, 20.0), 0.0)
    with pytest.raises(SpecError, match="NaN"):
        native.push(Chunk(np.full((3, 2), np.nan), 0.0, 20.0), 0.0)


def test_before_anything_is_decided_the_arm_rests_with_an_open_gripper():
    np.testing.assert_array_equal(NativePlayer(ee_delta_action(None), 10.0).action(0.0), (0, 0, 0, 0, 1))


def test_deltas_that_ran_out_are_not_repeated():
    deltas = NativePlayer(ee_delta_action(None), 10.0)
    deltas.push(chunk(0.5, 2), 0.0)
    np.testing.assert_allclose([deltas.action(t)[0] for t in (0.0, 0.1, 0.2, 3.0)], [0.5, 0.5, 0.0, 0.0])
    assert deltas.action(3.0)[4] == 1.0, "the gripper stays as it was"


class Counter(gym.Env):
    """A foreign environment: gives the time and keeps the actions that it got."""

    robot_spec = Spec({}, ("x",), ActionSpec("native", ("a",), (-9.0,), (9.0,)), 5.0)

    def reset(self, *, seed=None, options=None):
        self.taken = []
        return self._observation(), {}

    def step(self, action):
        self.taken.append(float(action[0]))
        return self._observation(), 0.5, False, len(self.taken) == 7, {"success": len(self.taken) > 5}

    def _observation(self):
        return {STATE: np.zeros(1, np.float32), TASK: "count", TIME: len(self.taken) / 5}


class Clock:
    """Action i of a chunk is when it was decided, plus i / 10."""

    def __init__(self, horizon):
        self.horizon = horizon

    def reset(self, spec, seed):
        self.decided = []

    def act(self, obs):
        step = round(obs[TIME] * 5)
        self.decided.append(step)
        rows = step + np.arange(self.horizon, dtype=np.float32)[:, None] / 10
        return Chunk(rows, obs[TIME], 5.0)


@pytest.mark.parametrize(
    "horizon, decide_every, delay, decided, taken",
    [
        (4, 3, 0, [0, 3, 6], [0, 0.1, 0.2, 3, 3.1, 3.2, 6]),
        (8, 3, 2, [0, 3, 6], [0, 0, 0.2, 0.3, 0.4, 3.2, 3.3]),
        (2, 4, 0, [0, 2, 4, 6], [0, 0.1, 2, 2.1, 4, 4.1, 6]),  # sooner, since the chunk runs out
        (1, 4, 1, [0, 1, 2, 3, 4, 5, 6], [0, 0, 1, 2, 3, 4, 5]),  # always too late: the last is held
    ],
)
def test_rollout_decides_delays_and_plays_by_time(horizon, decide_every, delay, decided, taken):
    env, policy = Counter(), Clock(horizon)
    episode = rollout(env, policy, seed=0, decide_every=decide_every, delay_steps=delay)
    assert policy.decided == decided and len(episode.latencies) == len(decided)
    np.testing.assert_allclose(env.taken, taken, atol=1e-6)
    assert episode.success and not episode.terminated and episode.reward == 3.5


def test_a_chunk_of_another_rate_is_played_by_time_and_followed_by_the_next():
    class Fast(Clock):
        def act(self, obs):
            return replace(super().act(obs), hz=10.0)

    env, policy = Counter(), Fast(4)
    rollout(env, policy, seed=0, decide_every=4)
    assert policy.decided == [0, 2, 4, 6]
    np.testing.assert_allclose(env.taken, [0, 0.2, 2, 2.2, 4, 4.2, 6], atol=1e-6)


def test_a_crash_is_the_callers_business():
    class Broken(Clock):
        def act(self, obs):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rollout(Counter(), Broken(1), seed=0)


def test_replay_rests_after_its_end():
    policy = ReplayPolicy(np.arange(3)[:, None])
    policy.reset(Counter.robot_spec, 0)
    assert policy.act({TIME: 0.2}).actions.tolist() == [[1.0], [2.0]]
    assert policy.act({TIME: 5.0}).actions.tolist() == [[2.0]]


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


def test_learner_and_expert_take_turns():
    """The learner drives in the turns that the seed says and hears everything; the expert finishes."""
    env = tabletop()
    learner = Blindfold(RandomPolicy())
    policy = TakeOver(learner, ExpertPolicy(env), longest=1.5, practice=3.0)
    driving = []

    class Watch:
        def frame(self, env, seen):
            driving.append((float(seen[TIME]), policy.driving))

    episode = rollout(env, policy, seed=4, decide_every=1, record=Watch())
    switches = turns(np.random.default_rng(4), 1.5, 3.0)
    assert len(switches) >= 3 and episode.success
    assert all(was == (np.sum(switches <= time - 0.1 + 1e-9) % 2 == 0) for time, was in driving[1:])
    heard = round(1600 * 10 * max(time for time, was in driving if was))
    assert learner.samples[0] == 0 and heard - 4 * 1600 <= sum(learner.samples) <= heard


class Listener(RandomPolicy):
    """Notes what it hears, and when, as MMLLMPolicy does."""

    def reset(self, spec, seed):
        super().reset(spec, seed)
        self.heard = []

    def hear(self, samples, now, state):
        self.heard.append((round(now * 10), len(samples)))

    def act(self, obs):
        self.hear(obs[AUDIO], float(obs[TIME]), obs[STATE])
        return super().act(obs)


def test_the_learner_hears_on_while_the_expert_drives():
    """In pieces as short as when it drives itself, none of them twice."""
    env, learner = tabletop(), Listener()
    episode = rollout(env, TakeOver(learner, ExpertPolicy(env), longest=1.5, practice=3.0), seed=4, decide_every=1)
    times, samples = np.array(learner.heard).T
    np.testing.assert_array_equal(np.cumsum(samples), 1600 * times)
    assert max(samples) <= 3 * 1600 and times[-1] >= 10 * episode.seconds - 4


@given(st.integers(0, 2**32), st.floats(0.1, 5.0), st.floats(0.0, 20.0))
def test_turns_end_with_the_second_driver(seed, longest, practice):
    times = turns(np.random.default_rng(seed), longest, practice)
    assert len(times) % 2 == 1 and times[-1] >= practice
    assert (np.diff(times, prepend=0.0) >= 0).all() and np.diff(times, prepend=0.0).max() <= longest


# ---- through the supervisor


class Joints:
    """Notes the commanded joint angles."""

    def __init__(self):
        self.q = []

    def frame(self, env, obs):
        self.q.append(env.unwrapped.command.position.copy())


@pytest.mark.parametrize("task", ["pick_up", "press_button"])
def test_experts_succeed_through_the_supervisor(task):
    env = TabletopEnv(task, action="joint_position", lazy_images=True)
    for seed in (0, 1):
        episode = rollout(env, ExpertPolicy(env), seed, decide_every=1, safety=True)
        assert episode.success and [e.kind for e in episode.interventions if e.kind == "refused"] == []


def test_a_wild_policy_stays_within_the_limits_and_off_the_table():
    env, joints = TabletopEnv("reach", action="joint_position", lazy_images=True), Joints()
    episode = rollout(env, RandomPolicy(), seed=0, safety=True, record=joints)
    assert episode.seconds > 1.0
    assert (np.abs(np.diff(joints.q, axis=0)) <= PANDA.dq_max * env.period + 1e-6).all()
    assert not any(env.body()(q) for q in joints.q)


@pytest.mark.parametrize("asked", [{"safety": True}, {"blend": 0.2}])
def test_safety_and_blending_need_joint_targets(asked):
    env = TabletopEnv("reach", lazy_images=True)
    with pytest.raises(SpecError, match="takes ee_delta"):
        rollout(env, RandomPolicy(), seed=0, **asked)
