"""`soma run`: one episode, told in words or by a recording, and a film of it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Mapping

import gymnasium as gym
import numpy as np

from envs.tabletop.sound import SAMPLE_RATE
from envs.text_space import LONGEST, Words
from training.phrases import find_scene, understand
from training.play import Job, Player, Setting, at_its_pace, check_policy, check_split, recorded, task_names
from training.settings import SettingsError, at_least, make_folder

SHORTEST = 0.1  # s of a recording


def main(cfg: Mapping[str, Any]) -> int:
    check_split(cfg["split"], "text")
    require_display(cfg["viewer"])
    keys = ("policy", "split", "decide_every", "delay_steps", "blend", "safety")
    setting = at_its_pace(Setting(env_id=cfg["env"]["id"], env_kwargs=cfg["env"]["kwargs"], **{key: cfg[key] for key in keys}))
    check_policy(setting, "text")
    at_least(0, {"seed": cfg["seed"]})
    recording = read_recording(str(cfg["audio"])) if cfg["audio"] else None
    player = Player(setting, cfg["device"])
    (job,) = recorded([prepare(cfg, player, recording)], setting)
    print(f"scene: {job.task}, seed {job.seed} of split {cfg['split']}")
    make_folder(cfg["out"])
    looking_on = [Viewer()] if cfg["viewer"] else []
    episode, film = player.play(job, *looking_on)
    print(f"told by {job.instruct}: {episode.instruction}")
    print(f"{'success' if episode.success else 'failure'} after {episode.seconds:.1f} s; "
          f"a decision took {1000 * np.median(episode.latencies):.0f} ms at the median")
    for event in episode.interventions:
        print(f"safety: at {event.time:.2f} s {event.kind}: {event.detail}")
    print(f"film: {film.save(job.film)}")
    return 0


def prepare(cfg: Mapping[str, Any], player: Player, recording: np.ndarray | None) -> Job:
    """The episode that fits what was said: its task, and a scene in which the words have a meaning."""
    said = str(cfg["task"] or "") or (words_of(recording, player.policy) if recording is not None else "")
    scene = task_names([str(cfg["scene"])])[0] if cfg["scene"] else None
    task, words = wanted(said, scene)
    if not task:
        task = task_names([], cfg["policy"])[0]
        print(f"nothing was said that asks for a task: the scene is one of {task}; scene=TASK takes another")
    if not Words().contains(said):
        raise SettingsError(f"task={said}: at most {LONGEST} characters of printable ASCII are needed")
    seed = find_scene(task, words, cfg["split"], cfg["seed"])
    options = {"instruction": said} if said else {}
    if recording is not None:
        options["utterance"] = recording
    way = "text" if recording is None else ("both" if cfg["task"] else "voice")
    return Job(task, seed, way, Path(cfg["out"]) / f"{task}-{seed}.mp4", options)


def wanted(said: str, scene: str | None) -> tuple[str | None, dict[str, str]]:
    """(task, what its scene has to hold, by roles): what the words ask for, in the scene of another task where that is asked for.
    Raises SettingsError for words that ask for nothing, without a scene."""
    try:
        task, words = understand(said) if said else (None, {})
    except SettingsError:
        if not scene:
            raise
        return scene, {}
    return (task, words) if scene in (None, task) else (scene, {})


def words_of(recording: np.ndarray, policy) -> str:
    """What the policy is sure to have understood; "" for one that has no ears for words."""
    if not hasattr(policy, "transcribe"):
        return ""
    from policies.mmllm import CONFIDENCE

    words, sure = policy.transcribe(recording)
    print(f"understood with confidence {sure:.2f}: {words or 'nothing'}")
    return words if sure >= CONFIDENCE else ""


def read_recording(path: str) -> np.ndarray:
    """A sound file as mono float32 (n,) at SAMPLE_RATE, at the level of the voices that were trained on."""
    import soundfile
    from scipy.signal import resample_poly

    from envs.tabletop.voices import levelled

    if not Path(path).is_file():
        raise SettingsError(f"audio={path}: there is no such file")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise SettingsError(f"audio={path}: {error}; WAV, FLAC, OGG and MP3 are among what can be read") from error
    common = np.gcd(rate, SAMPLE_RATE)
    mono = resample_poly(samples.mean(1), SAMPLE_RATE // common, rate // common)
    if len(mono) < SHORTEST * SAMPLE_RATE or not np.any(mono):
        raise SettingsError(f"audio={path}: {len(mono) / SAMPLE_RATE:.2f} s of sound, with no speech in it")
    return levelled(mono)


def require_display(wanted: bool) -> None:
    if wanted and os.name == "posix" and os.uname().sysname == "Linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise SettingsError("viewer=true needs a display, and DISPLAY is not set; the film shows the same")


class Viewer:
    """MuJoCo's window, at the pace of the world's clock."""

    def __init__(self):
        self.window = None

    def frame(self, env: gym.Env, obs: Mapping[str, Any]) -> None:
        import mujoco.viewer

        world = env.unwrapped.world
        if self.window is None:
            self.window = mujoco.viewer.launch_passive(world.model, world.data)
        self.window.sync()
        time.sleep(env.unwrapped.period)
