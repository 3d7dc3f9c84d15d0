"""The tabletop: the gymnasium contract, determinism, and experts that solve their tasks."""

import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from agent.spec import AUDIO, STATE, TASK, SpecError
from envs.arm import fk
from envs.arm import STATE_NAMES
from envs.tabletop.env import DEPTH, TabletopEnv
from envs.tabletop.tasks import TASKS, motions
from envs.tabletop.tasks.base import in_square


def fast(task="pick_up", **kwargs) -> TabletopEnv:
    return TabletopEnv(task=task, lazy_images=True, **kwargs)


def run_expert(env, seed, options=None, most=10_000):
    """Final info and the number of steps."""
    env.reset(seed=seed, options=options)
    for k in range(most):
        _, _, terminated, truncated, info = env.step(env.expert_action())
        if terminated or truncated:
            break
    return info, k + 1


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("size", [0, 33, 642])
def test_pictures_that_cannot_be_rendered_or_filmed_are_refused(size):
    with pytest.raises(ValueError, match=f"image_size {size}: an even number"):
        TabletopEnv(image_size=size)


@pytest.mark.filterwarnings("ignore:.*Box observation space m")  # what is measured has no bounds
@pytest.mark.parametrize("kwargs", [{}, {"action": "joint_position", "instruct": "voice", "depth": True, "force": True}])
def test_gymnasium_checker_passes(kwargs):
    check_env(gym.make("soma/Tabletop-v0", image_size=32, render_mode="rgb_array", **kwargs).unwrapped)


@pytest.mark.parametrize("hz", (0.0, -10.0, float("nan"), 60.0, float("inf"), 1e9))
def test_a_rate_that_physics_does_not_keep_is_refused(hz):
    with pytest.raises(ValueError, match=r"control_hz .*: whole physics steps of 0.004 s are needed"):
        TabletopEnv(control_hz=hz)


@pytest.mark.parametrize("options, why", [
    ({"instruction": None}, "instruction None: at most 200"), ({"instruction": "caf\u00e9"}, "printable ASCII"),
    ({"utterance": np.zeros(100)}, "not with text"), ({"instruct": "voice", "utterance": None}, "utterance None: a recording"),
    *(({"instruct": "voice", "utterance": wave}, r"floats \(n,\) in \[-1, 1\]")
      for wave in (np.zeros((100, 2)), np.zeros(100, np.int16), np.zeros(0), np.full(100, np.nan), np.full(100, 1.5))),
])
def test_what_cannot_be_said_is_refused(options, why):
    with pytest.raises(ValueError, match=why):
        fast().reset(seed=0, options=options)


def test_a_recording_is_played_or_refused_whatever_way_is_drawn():
    ways = set()
    for seed in range(6):
        env = fast(instruct="mixed")
        env.reset(seed=seed)
        ways.add(spoken := env.voice_end > 0)
        if spoken:
            env.reset(seed=seed, options={"utterance": np.zeros(8000)})
            assert 0.6 < env.voice_end < 1.6
        else:
            with pytest.raises(ValueError, match="where that is drawn"):
                env.reset(seed=seed, options={"utterance": np.zeros(8000)})
    assert ways == {True, False}


@pytest.mark.parametrize("wave", (np.full(100, 3000.0), np.full(100, np.nan), np.zeros(100, int)))
def test_what_the_agent_cannot_say_is_refused(wave):
    env = fast()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="what is said: floats"):
        env.say(wave)


def test_words_reach_who_runs_environments_beside_each_other():
    """In gymnasium's shared memory a Text stays what it was at first. Any printable words may be said."""
    venv = gym.make_vec("soma/Reach-v0", 2, "async", lazy_images=True)
    alone = [fast("reach").reset(seed=seed)[0][TASK] for seed in (0, 1)]
    first, _ = venv.reset(seed=[0, 1])
    then, _ = venv.reset(seed=[0, 1], options={"instruction": 'reach "it"; (now)'})
    after, *_ = venv.step(venv.action_space.sample())
    venv.close()
    assert first[TASK] == tuple(alone) and first in venv.observation_space
    assert then[TASK] == after[TASK] == ('reach "it"; (now)',) * 2


@pytest.mark.filterwarnings("ignore:.*ERROR")  # gymnasium tells it twice
def test_pictures_after_a_fork_are_refused():
    """A forked process would share the OpenGL context of the one that has drawn already."""
    env = gym.make("soma/Reach-v0", image_size=32)
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="(?s)before this process was forked.*spawn"):
        gym.make_vec("soma/Reach-v0", 1, "async", vector_kwargs={"context": "fork"}, image_size=32).reset(seed=0)
    venv = gym.make_vec("soma/Reach-v0", 1, "async", vector_kwargs={"context": "spawn"}, image_size=32)
    assert venv.reset(seed=0)[0]["observation.images.front"].std() > 5
    venv.close()


def test_every_task_has_an_id():
    assert set(envs.TASK_NAMES) == set(TASKS)
    assert gym.make("soma/PickUp-v0", lazy_images=True).unwrapped.task_name == "pick_up"


def test_observation_keeps_the_contract():
    env = TabletopEnv("place_in", force=True, depth=True, instruct="both")
    obs, _ = env.reset(seed=0)
    env.robot_spec.check(obs)
    assert obs in env.observation_space
    assert obs[TASK] == env.instruction
    depth = obs[DEPTH + "front"]
    assert 0.5 < depth.min() and depth[96:, 32:96].max() < 1.6  # the near part of the table, seen from 1.4 m


def test_same_seed_same_episode_and_other_splits_other_scenes():
    runs = []
    for split in ("train", "train", "new_scenes"):
        env = TabletopEnv("place_in", split, image_size=32)
        env.reset(seed=3)
        runs.append([env.step(env.expert_action())[0] for _ in range(3)][-1])
    assert same(runs[0], runs[1])
    assert not np.array_equal(runs[0][STATE], runs[2][STATE])


def test_the_instruction_s_way_does_not_change_the_scene():
    env = fast("reach")
    scenes = []
    for way in ("text", "voice"):
        env.reset(seed=5, options={"instruct": way})
        scenes.append((env.world.scene, env.instruction))
    assert scenes[0] == scenes[1]


@pytest.mark.parametrize("split, shared", [("train", True), ("new_scenes", False)])
def test_the_tasks_of_a_seed_share_voice_and_noise_in_training_alone(split, shared):
    heard = []
    for task in ("reach", "pick_up", "pick_up"):
        env = fast(task, split=split, instruct="voice")
        env.reset(seed=4, options={"instruction": "go to it"})
        heard.append((env.voice_end, env._ears.soundscape.noise.snr_db))
    assert heard[1] == heard[2] and (heard[0] == heard[1]) == shared


def test_measured_and_commanded_state_agree_when_still():
    env = fast("reach", action="joint_position")
    env.reset(seed=1)
    hold = np.append(env.command.position, env.command.opening)
    for _ in range(5):
        obs, *_ = env.step(hold)
    state = dict(zip(STATE_NAMES, obs[STATE]))
    assert np.allclose(fk(env.arm, env.command.position)[:3, 3], env.world.data.site("tool").xpos, atol=1e-3)
    assert max(abs(state[f"target_d{axis}"]) for axis in "xyz") < 1e-3
    assert state["gripper_target"] == pytest.approx(1.0)


def test_deltas_add_up_on_the_last_command():
    env = fast("reach")
    env.reset(seed=2)
    before = env.world.target
    for _ in range(3):
        env.step(np.array((0.5, -0.5, -0.25, 0.2, 1.0)))
    moved = env.world.target - before
    assert np.allclose(moved, 3 * np.array((0.02, -0.02, -0.01, 0.06)), atol=1e-4)
    assert np.linalg.norm((env.world.target - env.world.tool)[:3]) < 4e-3


@pytest.mark.parametrize("perturb", [0.0, 10.0])  # also while a kick takes its place
@pytest.mark.parametrize("action", [np.zeros(4), np.full(5, np.nan)])
def test_bad_actions_are_refused(action, perturb):
    env = fast()
    env.reset(seed=0, options={"perturb": perturb})
    with pytest.raises(SpecError):
        env.step(action)


@pytest.mark.parametrize("kwargs", [{"task": "fly"}, {"split": "test"}, {"instruct": "sign"}, {"action": "torque"}])
def test_bad_choices_name_the_allowed_ones(kwargs):
    with pytest.raises(ValueError, match="allowed are"):
        TabletopEnv(**kwargs)


@pytest.mark.parametrize("task", TASKS)
def test_expert_succeeds(task):
    wins = [run_expert(fast(task), seed)[0]["success"] for seed in range(3)]
    assert all(wins)


@pytest.mark.parametrize("task", ("pick_up", "open_drawer", "press_buzzer"))
def test_the_other_arm_does_the_same(task):
    assert run_expert(fast(task, arm="fr3"), 0)[0]["success"]


@pytest.mark.parametrize("task", TASKS)
def test_expert_recovers_from_kicks(task):
    wins = [run_expert(fast(task), seed, {"perturb": 0.2})[0]["success"] for seed in range(3)]
    assert sum(wins) >= 2


@pytest.mark.parametrize("hz", (10.0, 50.0))
def test_success_lasts_half_a_second(hz):
    """From the first moment in which it was seen to the last."""
    env = fast("reach", control_hz=hz)
    env.reset(seed=0)
    began, over = None, False
    while not over:
        *_, over, truncated, info = env.step(env.expert_action())
        began = (began or env.time) if env.task.success(env.world) else None
        assert not truncated and info["success"] == over == (began is not None and env.time - began >= 0.5 - 1e-6)


@pytest.mark.parametrize("perturb", [-1, np.nan, np.inf])
def test_kicks_that_cannot_be_are_refused(perturb):
    with pytest.raises(ValueError, match="perturb .*: kicks a second are needed, 0 or more"):
        fast("reach").reset(seed=1, options={"perturb": perturb})


@pytest.mark.parametrize("task", TASKS)
def test_expert_is_a_function_of_the_state_and_within_reach(task):
    """Asking twice changes nothing, and no step is longer than 4 cm."""
    env = fast(task)
    env.reset(seed=1, options={"perturb": 0.5})
    for _ in range(40):
        action = env.expert_action()
        assert np.array_equal(action, env.expert_action())
        assert np.linalg.norm(action[:3]) <= 1.0 and np.abs(action[3:]).max() <= 1.0
        if any(env.step(action)[2:4]):
            break


@pytest.mark.parametrize("task", TASKS)
def test_doing_nothing_fails_and_reward_terms_are_weighed(task):
    env = fast(task)
    env.reset(seed=0)
    for _ in range(15):
        _, reward, terminated, _, info = env.step(np.array((0, 0, 0, 0, 1.0)))
        terms = info["reward_terms"]
        assert terms.keys() == env.task.weights.keys() and all(0 <= term <= 1 for term in terms.values())
        assert reward == pytest.approx(sum(env.task.weights[k] * v for k, v in terms.items()))
    assert not info["success"] and not terminated


@pytest.mark.parametrize("task", TASKS)
def test_who_is_done_is_paid_for_the_rest_of_the_time_too(task):
    """Every term at its best in every step, so that nobody gains by waiting."""
    env = fast(task)
    env.reset(seed=3)
    paid, done = 0.0, False
    while not done:
        _, reward, terminated, truncated, info = env.step(env.expert_action())
        paid, done = paid + reward, terminated or truncated
    best = sum(env.task.weights.values())
    assert info["success"] and paid >= best * (env.task.time_limit - env.time + env.heard_at) / env.period - 1e-6


def test_what_is_pushed_into_the_square_may_be_left_with_the_prongs_at_it():
    env = fast("push")
    for seed in range(6):
        env.reset(seed=seed)
        deep, over = False, False
        while not over:
            deep = deep or in_square(env.world, env.task.item, env.task.square, 0.015)
            action = np.array((0, 0, 0, 0, motions.PUSHING)) if deep else env.expert_action()
            *_, terminated, truncated, info = env.step(action)
            over = terminated or truncated
        assert info["success"]


def test_carrying_is_not_pushing():
    env = fast("push")
    env.reset(seed=9000)
    world, item, square, done = env.world, env.task.item, env.task.square, False
    while not done:
        way = world.position(square.name)[:2] - world.position(item.name)[:2]
        if np.linalg.norm(way) < 0.012:
            action = motions.release(world, item)
        elif motions.grasped(world, item):
            action = motions.toward(world, (*(world.target[:2] + way), item.height / 2 + 0.03), None, motions.CLOSED)
        else:
            action = motions.grasp(world, item)
        *_, terminated, truncated, info = env.step(np.clip(action, -1, 1))
        done = terminated or truncated
    assert terminated and not info["success"]


def test_expert_waits_for_the_voice_and_the_ringing():
    env = fast("press_buzzer", instruct="voice")
    obs, info = env.reset(seed=0)
    assert obs[TASK] == "" and not info["annotation"]["heard"] and env.voice_end > 0.5
    surprises = []
    while env.time < env.task.rings_at + 0.25:
        assert np.allclose(env.expert_action()[:4], 0)
        obs, _, _, _, info = env.step(env.expert_action())
        surprises.append(info["annotation"]["surprise"])
        assert info["annotation"]["heard"] == (env.time >= env.voice_end)
    assert sum(surprises) == 2  # the voice ended, the ringing began


def test_voice_and_world_are_kept_apart():
    env = fast("reach", instruct="voice")
    env.reset(seed=0)
    voice, after = [], []
    while env.time < env.voice_end + 0.5:
        env.step(env.expert_action())
        (voice if env.time < env.voice_end else after).append(np.abs(env.tracks["voice"]).max())
    assert max(voice) > 0.01 and after[-1] < 1e-3
    env.reset(seed=0, options={"instruct": "text"})
    env.step(env.expert_action())
    assert np.abs(env.tracks["voice"]).max() == 0


def test_the_agent_hears_its_own_voice():
    """After it has begun to speak, in both ears alike, and as a sound of the world."""
    env, wave = fast("reach"), np.sin(np.arange(2400) / 5).astype(np.float32)

    def heard(speaks):
        env.reset(seed=0)
        for step in range(5):
            if speaks and step == 2:
                env.say(wave)
            env.step(env.expert_action())
            yield env.tracks["world"]

    extra = np.array(list(heard(True))) - np.array(list(heard(False)))
    assert not extra[:2].any() and np.abs(extra[2]).max() > 0.5 and not np.abs(extra[4]).max() > 1e-3
    np.testing.assert_allclose(extra[..., 0], extra[..., 1], atol=1e-6)


def test_ringing_is_louder_at_the_nearer_ear():
    env = fast("press_buzzer")
    agree = []
    for seed in range(6):
        env.reset(seed=seed)
        power = np.zeros(2)
        while env.time < env.task.rings_at + 0.4:
            obs, *_ = env.step(env.expert_action())
            power += (obs[AUDIO] ** 2).sum(0) * (env.time > env.task.rings_at + 0.1)
        y = env.world.position(env.task.target.name)[1]
        if abs(y) > 0.05:
            agree.append((power[0] > power[1]) == (y > 0))
    assert agree and all(agree)


def test_kicks_mark_surprise_and_replace_the_action():
    env = fast("reach")
    env.reset(seed=0, options={"perturb": 10.0})
    before = env.world.target
    *_, info = env.step(np.array((0, 0, 0, 0, 1.0)))
    assert info["annotation"]["surprise"] and np.abs(env.world.target - before).max() > 1e-3


def test_vectorised():
    venv = gym.make_vec("soma/Reach-v0", num_envs=2, vectorization_mode="sync", vector_kwargs={}, lazy_images=True)
    obs, _ = venv.reset(seed=[0, 1])
    assert obs[STATE].shape == (2, 18)
    obs, reward, *_ = venv.step(venv.action_space.sample())
    assert reward.shape == (2,) and obs[AUDIO].shape == (2, 1600, 2)
    venv.close()


def test_images_need_no_display_even_where_mujoco_was_imported_first():
    code = ("import mujoco, gymnasium, envs; env = gymnasium.make('soma/Reach-v0'); obs, _ = env.reset(seed=0); "
            "assert obs['observation.images.front'].std() > 5")
    unset = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY", "PYOPENGL_PLATFORM")
    bare = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
