"""`soma doctor`: what works on this machine, found by trying it, and what to do about the rest."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Callable, Iterator, NamedTuple, Sequence

SPACE, SPACE_OF_RECIPE = 20, 60  # GB that a training run with some demonstrations wants, and training/recipe.sh
LEARN = ", for stage=hearing"
SYNTHESISERS = (("espeak", "en-us", ""), ("flite", "slt", ", for the split new_voices"), ("pico", "en-US", LEARN),
                ("festival", "ked_diphone", LEARN), ("piper", "joe", LEARN), ("hibari", "heart", LEARN))


class Finding(NamedTuple):
    name: str
    works: bool
    detail: str
    remedy: str = ""
    needed: bool = True


def main(disk: str = ".", recipe: bool = False, without: Sequence[str] = ()) -> int:
    """Print a line a finding; 1 where something that is needed (of the recipe for the shipped weights) does not work and is not
    to be done `without`."""
    findings = []
    for finding in examine(disk, recipe):
        findings.append(finding)
        print(line(finding), flush=True)
    broken = [f.name for f in findings if f.needed and not f.works and f.name not in without]
    print(f"\nmissing: {', '.join(broken)}" if broken else "\nall that is needed works")
    return int(bool(broken))


def examine(disk: str, recipe: bool = False) -> Iterator[Finding]:
    yield from map(attempt, (python, packages, threads, bf16, gpu))
    yield attempt(cplusplus)._replace(needed=recipe)
    yield from map(attempt, (tcmalloc, decision, physics, rendering))
    for about in SYNTHESISERS:
        found = attempt(synthesiser, *about)
        yield found._replace(needed=found.needed or (recipe and about[-1] == LEARN))
    yield from map(attempt, (sounds, films, viewer))
    yield space(disk, SPACE_OF_RECIPE if recipe else SPACE)


def attempt(check: Callable[..., Finding], *about: str) -> Finding:
    """A check that dies is a finding, too."""
    try:
        return check(*about)
    except Exception as error:  # noqa: BLE001 libraries that are half there fail in every way
        return Finding((*about, check.__name__)[0], False, f"{type(error).__name__}: {error}", "reinstall: make setup")


def line(finding: Finding) -> str:
    mark = "ok     " if finding.works else ("MISSING" if finding.needed else "absent ")
    remedy = f" -> {finding.remedy}" if finding.remedy and not finding.works else ""
    return f"{mark} {finding.name:10s} {finding.detail}{remedy}"


def python() -> Finding:
    fits = (3, 10) <= sys.version_info[:2] <= (3, 13)
    return Finding("python", fits, f"{platform.python_version()} on {platform.platform()}",
                   "3.10 to 3.13 is needed: make PYTHON=python3.12 setup")


def packages() -> Finding:
    """Every requirement of the installed distribution is there in a version that will do."""
    from packaging.requirements import Requirement

    missing = []
    for text in requires("soma-agent") or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            missing += unmet(requirement)
    return Finding("packages", not missing, ", ".join(missing) or "all requirements are met", "make setup")


def unmet(requirement) -> list[str]:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return [f"{requirement} is not installed"]
    return [] if requirement.specifier.contains(found, prereleases=True) else [f"{requirement}, found {found}"]


def threads() -> Finding:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads on {cores} cores")


def bf16() -> Finding:
    from training.train import fast_bf16_cpu

    fast = fast_bf16_cpu()
    detail = "multiplied in hardware, training takes it" if fast else "not in this CPU's hardware, training takes fp32"
    return Finding("bf16", fast, detail, needed=False)


def gpu() -> Finding:
    import torch

    found = torch.cuda.is_available()
    detail = torch.cuda.get_device_name(0) if found else "none that this PyTorch can use; the CPU will do"
    return Finding("gpu", found, detail, "with an NVIDIA GPU: make setup TORCH=torch", needed=False)


def cplusplus() -> Finding:
    from training.train import compiler

    found = compiler()
    missing = "no g++ or clang++ with Python's headers; stage.schedule.compile=true needs them"
    return Finding("c++", found is not None, found or missing, "apt-get install g++ python3-dev", needed=False)


def tcmalloc() -> Finding:
    from training.workers import allocator

    found = allocator()
    return Finding("tcmalloc", found is not None, found or "not found; training in several processes is a tenth slower",
                   "apt-get install libtcmalloc-minimal4", needed=False)


def decision() -> Finding:
    """The shipped weights, shown black pictures in silence, answer with a chunk that they can stand by."""
    import time

    import numpy as np

    from policies.mmllm import MMLLMPolicy

    policy = MMLLMPolicy.load("pocket")
    policy.warm_up()
    obs, begin = policy.model.spec.blank("reach the red cube"), time.perf_counter()
    actions = policy.act(obs).actions
    took = 1000 * (time.perf_counter() - begin)
    return Finding("decision", bool(np.isfinite(actions).all()), f"the shipped weights decided in {took:.0f} ms")


def physics() -> Finding:
    import mujoco

    ball = "<body><freejoint/><geom size='.1'/></body>"
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{ball}</worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data)
    return Finding("mujoco", data.time > 0, mujoco.__version__)


def rendering() -> Finding:
    """A camera image of the tabletop, in a process of its own: OpenGL drivers may take it down with them."""
    code = ("import envs, gymnasium as gym; e = gym.make('soma/Tabletop-v0', task='reach'); o = e.reset(seed=0)[0]; "
            "print(o['observation.images.front'].std())")
    import envs.tabletop  # noqa: F401  sets MUJOCO_GL

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    seen = done.returncode == 0 and float(done.stdout.split()[-1]) > 1
    gl = os.environ.get("MUJOCO_GL")
    said = (done.stderr.strip().splitlines() or ["the picture is empty"])[-1]
    return Finding("rendering", seen, f"MUJOCO_GL {gl}" if seen else said,
                   "apt-get install libegl1 libgl1-mesa-dri, or set MUJOCO_GL to egl, osmesa or glfw")


def synthesiser(engine: str, name: str, what_for: str) -> Finding:
    from envs.tabletop.sound import SAMPLE_RATE
    from envs.tabletop.voices import ENGINES, Voice, available_engines, speak

    remedy, needed = f"{ENGINES[engine]}{what_for}", not what_for
    if engine not in available_engines():
        return Finding(engine, False, "not found", remedy, needed)
    try:
        seconds = len(speak("press the buzzer", Voice(engine, name))) / SAMPLE_RATE
    except Exception as error:  # noqa: BLE001 a program without its voices fails in its own way
        return Finding(engine, False, f"{type(error).__name__}: {error}", remedy, needed)
    return Finding(engine, True, f"spoke for {seconds:.1f} s", remedy, needed)


def sounds() -> Finding:
    """FLAC keeps 16-bit samples as they are."""
    import numpy as np
    import soundfile

    noise = np.random.default_rng(0).integers(-(2**15), 2**15, (1600, 1)).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        soundfile.write(file := Path(folder) / "noise.flac", noise, 16000)
        same = np.array_equal(soundfile.read(file, dtype="int16", always_2d=True)[0], noise)
    return Finding("flac", same, f"soundfile {soundfile.__version__}", "pip install --force-reinstall soundfile")


def films() -> Finding:
    """H.264 and AAC by the ffmpeg libraries that PyAV brings."""
    import av
    import numpy as np

    from training.film import encode

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "film.mp4"
        encode(file, [np.zeros((64, 64, 3), np.uint8)] * 5, 10.0, np.zeros((8000, 2), np.float32), 16000)
        with av.open(str(file)) as film:
            found = [stream.codec_context.name for stream in film.streams]
    return Finding("films", found == ["h264", "aac"], f"PyAV {av.__version__}: {' and '.join(found)}",
                   "pip install --force-reinstall av")


def viewer() -> Finding:
    shown = platform.system() != "Linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    there = shown and importlib.util.find_spec("mujoco.viewer") is not None
    detail = "a window can be opened" if there else "no display; films show the same"
    return Finding("viewer", there, detail, needed=False)


def space(disk: str, wanted: float) -> Finding:
    if not Path(disk).is_dir():
        return Finding("disk", False, f"{disk} is no folder")
    free = shutil.disk_usage(disk).free / 1e9
    return Finding("disk", free > wanted, f"{free:.0f} GB free", f"collecting and training want {wanted} GB")
