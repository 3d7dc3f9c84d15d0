"""The MM-LLM as a policy: what it acts on, what it takes for an instruction, whom it refuses."""

from dataclasses import replace

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
import yaml

import envs  # noqa: F401
from agent import checkpoint
from agent.processor import MAX_TEXT, Processor
from agent.spec import AUDIO, IMAGES, STATE, TASK, TIME, SpecError
from agent.tokenizer import train_tokenizer
from envs.tabletop.sound import SAMPLE_RATE
from envs.tabletop.voices import Voice, speak
from policies.base import rollout
from policies.mmllm import MMLLMPolicy
from tests.tiny import SENTENCES, awaken, tiny_config


def world(**kwargs):
    return gym.make("soma/Tabletop-v0", task="pick_up", action="joint_position", lazy_images=True, disable_env_checker=True,
                    **kwargs)


@pytest.fixture(scope="module")
def mind():
    """An untrained model for the tabletop."""
    torch.manual_seed(0)
    spec, tokenizer, config = world().unwrapped.policy_spec, train_tokenizer(SENTENCES), tiny_config()
    assert yaml.safe_dump(config)
    model = checkpoint.new_model(config, spec, tokenizer)
    awaken(model)
    return MMLLMPolicy(model, Processor(spec, tokenizer, config["image_size"]))


def test_the_mind_reads_pixels_sound_state_and_words_alone(mind):
    """What cannot be sensed is changed, which box is full and how heavy all is: what is sensed and done stays bit for bit. What
    can be sensed is changed: so does what is done."""
    env = world().unwrapped
    env.reset(seed=0, options={"task": "find_rattle"})

    def sensed_and_done():
        seen = env._observation() | env.images()
        mind.reset(env.policy_spec, 0)
        return seen, mind.act(seen).actions

    seen, done = sensed_and_done()
    assert set(seen) == {*(IMAGES + name for name in env.policy_spec.cameras), AUDIO, STATE, TASK, TIME}
    boxes = env.task.boxes
    env.task.full = next(box for box in boxes if box is not env.task.full)
    env.world.model.body_mass[:] *= 2.0
    env.task.time_limit, env._succeeds_since, env._kicked, env._surprise = 0.1, 0.0, True, True
    seen_then, done_then = sensed_and_done()
    assert all(np.array_equal(seen[key], seen_then[key]) for key in seen) and np.array_equal(done, done_then)
    first = env.world.model.jnt_qposadr[env.world.model.body(boxes[0].name).jntadr[0]]
    env.world.data.qpos[first] += 0.1
    mujoco.mj_forward(env.world.model, env.world.data)
    assert not np.array_equal(sensed_and_done()[1], done)


def test_more_words_than_fit_are_no_instruction(mind, monkeypatch):
    """Chatter, of which each decision would fail from then on."""
    voice = speak("pick up the green ball", Voice("espeak", "en-us+f3"))
    sound = np.concatenate([np.zeros(SAMPLE_RATE), voice, np.zeros(SAMPLE_RATE)]).astype(np.float32)
    for words, taken in (("pick it up", "pick it up"), ("so they said " * MAX_TEXT, "")):
        monkeypatch.setattr(mind, "transcribe", lambda waveform: (words, 1.0))
        mind.reset(mind.model.spec, 0)
        mind.hear(np.repeat(sound[:, None], 2, 1), len(sound) / SAMPLE_RATE, np.zeros(18, np.float32))
        assert mind.spoken == taken


def test_the_mind_follows_what_is_spoken_as_what_is_written(mind):
    """Once it is understood; before, it knows that it has not been told. What is written counts."""
    env = world(instruct="voice").unwrapped
    obs, _ = env.reset(seed=2)
    seen = dict(obs) | env.images()

    def act(written, spoken):
        mind.reset(env.policy_spec, 0)
        mind.spoken = spoken
        return mind.act(seen | {TASK: written}).actions

    told = act("put the red cube in the blue bowl", "")
    np.testing.assert_array_equal(act("", "put the red cube in the blue bowl"), told)
    np.testing.assert_array_equal(act("put the red cube in the blue bowl", "pick up the green ball"), told)
    assert not np.array_equal(act("", ""), told)


def test_a_recogniser_alone_is_ears_enough_for_words(monkeypatch):
    spec, tokenizer, config = world().unwrapped.policy_spec, train_tokenizer(SENTENCES), tiny_config(audio=None)
    model = checkpoint.new_model(config, spec, tokenizer)
    mind = MMLLMPolicy(model, Processor(spec, tokenizer, config["image_size"]))
    monkeypatch.setattr(mind, "transcribe", lambda waveform: ("pick it up", 1.0))
    voice = speak("pick up the green ball", Voice("espeak", "en-us+f3"))
    sound = np.concatenate([np.zeros(SAMPLE_RATE), voice, np.zeros(SAMPLE_RATE)]).astype(np.float32)
    mind.hear(np.repeat(sound[:, None], 2, 1), len(sound) / SAMPLE_RATE, np.zeros(len(spec.state), np.float32))
    assert mind.spoken == "pick it up"


def test_the_mind_does_not_follow_its_own_voice(mind, monkeypatch):
    env = world().unwrapped
    obs, _ = env.reset(seed=0)
    monkeypatch.setattr(mind, "transcribe", lambda waveform: ("all right", 1.0))
    voice = speak("all right: pick up the green ball", Voice("espeak", "en-us+f3"))
    sound = np.concatenate([np.zeros(SAMPLE_RATE), voice, np.zeros(SAMPLE_RATE)]).astype(np.float32)
    begin, end = 1.0, 1.0 + len(voice) / SAMPLE_RATE
    for own, understood in (([], "all right"), ([(begin, end)], ""), ([(0.0, 0.4), (end + 1.0, end + 2.0)], "all right")):
        mind.own_voice.clear()
        for interval in own:
            mind.spoke(*interval)
        mind.reset(env.policy_spec, 0)
        mind.hear(np.repeat(sound[:, None], 2, 1), len(sound) / SAMPLE_RATE, obs[STATE])
        assert mind.spoken == understood
    mind.own_voice.clear()


def test_the_mind_plays_an_episode_the_same_twice(mind):
    runs = [rollout(world(max_episode_steps=12), mind, seed=5, options={"instruct": "text"}) for _ in range(2)]
    assert runs[0].reward == runs[1].reward and runs[0].seconds == runs[1].seconds


def test_warming_up_leaves_nothing_behind(mind):
    seen = mind.model.spec.blank("pick up the red cube")
    mind.reset(mind.model.spec, 0)
    first = mind.act(seen).actions
    mind.warm_up()
    assert mind.aim is None and not mind.spoken
    assert np.array_equal(mind.act(seen).actions, first)


def test_the_mind_refuses_a_robot_that_it_did_not_learn(mind):
    with pytest.raises(SpecError, match="control_hz 10.0, this robot has 25.0"):
        mind.reset(world(control_hz=25.0).unwrapped.policy_spec, 0)
    spec = world().unwrapped.policy_spec
    degrees = replace(spec.action, units=("m", "m", "m", "deg", "1"))
    with pytest.raises(SpecError, match="action.units .*'rad', '1'.*, this robot has .*'deg', '1'"):
        mind.reset(replace(spec, action=degrees), 0)
