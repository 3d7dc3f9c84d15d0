"""A person as a policy: what keys and sticks mean, what is recorded, how an episode is given up."""

from types import SimpleNamespace

import numpy as np
import pytest

from agent.spec import ACTION, Spec, SpecError
from envs.arm import ARMS, joint_position_action
from envs.tabletop.env import TabletopEnv
from policies.teleop import GivenUp, TeleopPolicy
from training.collect import CollectError, collect
from training.data.demos import DemoReader

pygame = pytest.importorskip("pygame", reason="pygame is not installed: pip install 'soma-agent[teleop]'")
SMALL = {"image_size": 32, "instruct": "text"}


@pytest.fixture
def held(monkeypatch):
    """Keys that are held down, on a screen and loudspeakers that nobody sees or hears."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    pygame.quit()
    keys = set()
    monkeypatch.setattr(pygame.key, "get_pressed", lambda: {k: k in keys for k in range(pygame.K_UP - 999, pygame.K_UP + 999)}
                        | {k: k in keys for k in range(512)})
    yield keys
    pygame.quit()


def driven(policy, env, steps: int) -> np.ndarray:
    """The tool's way (3,) m under a policy."""
    obs, _ = env.reset(seed=3)
    policy.reset(env.robot_spec, 3)
    begin = env.world.tool[:3].copy()
    for _ in range(steps):
        obs, *_ = env.step(policy.act(obs).actions[0])
    return env.world.tool[:3] - begin


@pytest.mark.parametrize("key, axis, sign", [("K_UP", 0, -1), ("K_DOWN", 0, 1), ("K_RIGHT", 1, 1), ("K_LEFT", 1, -1),
                                             ("K_w", 2, 1), ("K_s", 2, -1)])
def test_a_key_moves_the_tool_as_the_front_picture_shows_it(held, key, axis, sign):
    held.add(getattr(pygame, key))
    way = driven(TeleopPolicy(), TabletopEnv("pick_up", **SMALL), 4)
    assert np.abs(way).argmax() == axis and way[axis] * sign > 0.02


@pytest.mark.parametrize("stick, axis, sign", [("LEFTY", 0, 1), ("LEFTX", 1, 1), ("RIGHTY", 2, -1)])
def test_a_stick_moves_the_tool_and_triggers_do_not(held, stick, axis, sign):
    """A pad as SDL names its axes, whatever their order; its triggers are held."""
    policy, env = TeleopPolicy(), TabletopEnv("pick_up", **SMALL)
    tilts = {pygame.CONTROLLER_AXIS_TRIGGERLEFT: 32767, pygame.CONTROLLER_AXIS_TRIGGERRIGHT: 32767}
    policy.pad = SimpleNamespace(get_axis=lambda axis: tilts.get(axis, 900))  # sticks do not rest at 0
    assert np.abs(driven(policy, env, 4)).max() < 0.005
    tilts[getattr(pygame, f"CONTROLLER_AXIS_{stick}")] = 32767
    way = driven(policy, env, 4)
    assert np.abs(way).argmax() == axis and way[axis] * sign > 0.02


def test_a_pads_buttons_turn_the_gripper_and_give_up(held):
    policy = TeleopPolicy()
    policy.reset(TabletopEnv("pick_up", **SMALL).robot_spec, 0)
    policy.heed([pygame.event.Event(pygame.CONTROLLERBUTTONDOWN, button=pygame.CONTROLLER_BUTTON_A)])
    assert policy.gripper == -1.0
    with pytest.raises(GivenUp):
        policy.heed([pygame.event.Event(pygame.CONTROLLERBUTTONDOWN, button=pygame.CONTROLLER_BUTTON_B)])


def test_space_turns_the_gripper_and_backspace_gives_up(held):
    policy, env = TeleopPolicy(), TabletopEnv("pick_up", **SMALL)
    obs, _ = env.reset(seed=0)
    policy.reset(env.robot_spec, 0)
    for expected in (-1.0, 1.0):
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_SPACE))
        assert policy.act(obs).actions[0, 4] == expected == policy.played[4]
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_BACKSPACE))
    with pytest.raises(GivenUp):
        policy.act(obs)
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    with pytest.raises(KeyboardInterrupt):
        policy.act(obs)


def test_what_the_person_did_is_what_is_recorded(held, tmp_path):
    held.update((pygame.K_UP, pygame.K_w))
    report = collect(tmp_path, ["reach"], 1, SMALL, workers=1, perturb=0.0, beginning=4, policy="teleop")
    assert report == {"reach": {"kept": 1, "failed": 0, "errors": 0}}
    actions = DemoReader(tmp_path).columns()[ACTION]
    np.testing.assert_allclose(actions, np.tile((-0.6, 0, 0.6, 0, 1.0), (4, 1)), atol=1e-6)


def test_teleop_says_what_it_cannot_do(held, tmp_path):
    arm = ARMS["panda"]
    with pytest.raises(SpecError, match="joint_position"):
        TeleopPolicy().reset(Spec({}, (), joint_position_action(arm), 10.0), 0)
    with pytest.raises(CollectError, match="workers=1"):
        collect(tmp_path, ["reach"], 1, policy="teleop")
    with pytest.raises(CollectError, match="'puppet': allowed are expert, teleop"):
        collect(tmp_path, ["reach"], 1, policy="puppet")
