"""Tasks of which only hearing tells: when to start, and which box rattles."""

import numpy as np
import pytest

from agent.spec import TIME
from envs.tabletop.env import TabletopEnv
from envs.tabletop.tasks import TASKS
from envs.tabletop.tasks.motions import press
from policies.base import Chunk, rollout


def fast(task: str, **kwargs) -> TabletopEnv:
    return TabletopEnv(task=task, lazy_images=True, **kwargs)


def beep_env(silent: bool) -> TabletopEnv:
    """An episode of start_on_beep with or without a beep."""
    env = fast("start_on_beep")
    for seed in range(50):
        env.reset(seed=seed)
        if np.isinf(env.task.beeps_at) == silent and (silent or env.task.beeps_at > 1.0):
            return env
    raise AssertionError("no such episode in 50 seeds")


def test_starting_before_the_beep_fails():
    env = beep_env(silent=False)
    env.step(np.array((1.0, 0, 0, 0, 1.0)))
    terminated = False
    while not terminated:
        *_, terminated, truncated, info = env.step(env.expert_action())
        assert not truncated
    assert not info["success"] and env.time < 1.0


def test_who_is_there_before_the_beep_because_the_instruction_was_half_heard_fails():
    """And then waits: that needs no ears for the beep."""
    env = fast("start_on_beep", instruct="voice")
    env.reset(seed=0)
    over = False
    while not over:
        early = env.time < env.heard_at - 0.05
        action = TASKS["reach"].expert(env.task, env.world) if early else np.array((0, 0, 0, 0, 1.0))
        *_, terminated, truncated, info = env.step(action)
        over = terminated or truncated
    assert terminated and not info["success"] and env.time < env.task.beeps_at


def test_pressing_a_buzzer_before_any_rings_fails():
    env = fast("press_buzzer")
    env.reset(seed=1)
    env.task.rings_at, over = 9.0, False
    while not over:
        *_, terminated, truncated, info = env.step(press(env.world, env.task.target))
        over = terminated or truncated
    assert terminated and not info["success"] and env.time < 9.0


def test_who_comes_long_after_the_beep_is_too_late():
    env = beep_env(silent=False)
    terminated = False
    while not terminated:
        action = env.expert_action() if env.time > env.task.beeps_at + 2.0 else np.array((0, 0, 0, 0, 1.0))
        *_, terminated, truncated, info = env.step(action)
        assert not truncated
    assert not info["success"] and env.time < env.task.beeps_at + 3.2


@pytest.mark.parametrize("still", [True, False])
def test_where_no_beep_comes_staying_still_succeeds_and_going_fails(still):
    env = beep_env(silent=True)
    terminated = False
    while not terminated:
        action = env.expert_action() if still else TASKS["reach"].expert(env.task, env.world)
        *_, terminated, truncated, info = env.step(action)
        assert not truncated
    assert info["success"] == still


def test_a_kick_before_the_beep_is_not_a_start():
    env = beep_env(silent=False)
    env._kick = [np.array((0.9, 0.5, 0.0, 0.0))] * 3
    rest = env.world.target
    for _ in range(5):
        *_, terminated, _, _ = env.step(env.expert_action())
    assert np.linalg.norm((env.world.target - rest)[:3]) > 0.05 and not terminated


class Waits:
    """Decides, time and again, to stay where it is for eight steps."""

    sees = False

    def reset(self, spec, seed):
        self.still = np.tile((0.0, 0.0, 0.0, 0.0, 1.0), (8, 1))

    def act(self, obs):
        return Chunk(self.still, obs[TIME], 10.0)


@pytest.mark.parametrize("safety", [False, True])
def test_who_waits_on_joint_targets_has_not_started_where_he_is_kicked(safety):
    """The targets were decided before the kicks, and undo them."""
    env, kicked = fast("start_on_beep", action="joint_position"), 0
    for seed in range(4):
        rollout(env, Waits(), seed, options={"perturb": 0.5}, safety=safety)
        kicked += env.world.pushed_at > 0.0
        assert not env.task.early
    assert kicked == 4


def test_beeps_come_at_a_constant_rate_or_not_at_all():
    env = fast("start_on_beep")
    env.reset(seed=0)
    delays = []
    for seed in range(1500):
        env.task.begin(env.world, 0.0, np.random.default_rng(seed))
        delays.append(env.task.beeps_at - 0.5)
    delays = np.array(delays)
    waiting = [(delays > t).mean() for t in (0.0, 2.0, 4.0)] + [np.isinf(delays).mean()]
    assert waiting[-1] == pytest.approx(0.2, abs=0.04)
    shares = [after / before for before, after in zip(waiting, waiting[1:])]
    assert np.allclose(shares, 0.2 ** (1 / 3), atol=0.06)


def rattle_run(full: int, mute: bool = False, most: int = 400):
    """The expert's actions up to its first verdict and whether it succeeds, with the contents in one of the boxes."""
    env = fast("find_rattle")
    env.reset(seed=0)
    task = env.task
    task.full, actions, tried = task.boxes[full], [], set()
    if mute:
        task.sounds = lambda world, duration: []
    for _ in range(most):
        action = env.expert_action()
        heard = len(task.verdicts)
        if not heard:
            actions.append(action)
        *_, terminated, truncated, info = env.step(action)
        assert info["annotation"]["surprise"] == (len(task.verdicts) > heard)
        tried |= {task.in_hand(env.world).name} if task.listening else set()
        if terminated or truncated:
            break
    return np.array(actions), info["success"], len(tried)


def test_rattle_expert_knows_only_what_it_heard():
    actions, wins, tried = zip(*(rattle_run(full) for full in range(3)))
    assert all(wins) and sorted(tried) == [1, 2, 3]
    assert all(np.array_equal(actions[0], other) for other in actions)
    deaf = rattle_run(0, mute=True)
    assert not deaf[1] and deaf[2] == 3


def test_a_shaken_box_is_thrown_about_as_much_at_any_rate_of_control():
    jolts = []
    for hz in (10.0, 50.0):
        env = fast("find_rattle", control_hz=hz)
        env.reset(seed=0)
        env.world.velocity = lambda name, world=env.world: np.array((0.0, 0.3 * np.sin(16 * world.time), 0.0))
        for _ in range(round(hz)):
            env.step(np.array((0, 0, 0, 0, 1.0)))
            if abs(10 * env.time - round(10 * env.time)) < 1e-6:
                jolts.append(env.task.jolt)
    np.testing.assert_allclose(jolts[:10], jolts[10:], atol=1e-9)
    assert max(jolts) > 0.3
