"""From a stage's settings to a model, its data and the loop: `demos` (imitation), `dagger` (imitation with rounds of
practice) and `hearing` (the recogniser).

They take what `soma train` reads from training/configs/train.yaml and training/configs/stage/*.yaml.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from agent import checkpoint
from agent.model import EmbodiedModel
from agent.processor import MAX_TEXT, Processor
from agent.spec import ACTION, SENSE, STATE, Spec
from agent.tokenizer import encode, load_tokenizer, train_tokenizer
from envs.tabletop.voice_bank import VoiceBank
from envs.tabletop.voices import ENGINES, LEARNED_FROM, available_engines
from policies.mmllm import require_same
from training.collect import checked, collect
from training.data.corpus import tokenizer_text
from training.data.demos import DemoReader
from training.data.frame_cache import FrameCache
from training.data.lerobot_format import INFO, read_json
from training.data.mixture import Mixture
from training.data.photometric import Photometric
from training.data.remix import remix
from training.data.speech import Utterances, bank_sentences
from training.data.windows import DemoWindows, Dropout
from training.play import task_names
from training.settings import at_least, claim, compose, filled, flat, nested
from training.train import PROTOCOL, Schedule, TrainError, Trainer, peers
from training.workers import together

NO_MATTER = {f"stage.schedule.{name}" for name in ("steps", "save_every", "log_every", "workers", "compile")}


def train(cfg: Mapping[str, Any]) -> Path:
    """Run one stage; gives the directory of the averaged weights. Raises TrainError for settings that cannot work, SettingsError
    where `out` holds another run."""
    stages = {"demos": demos, "dagger": dagger, "hearing": hearing}
    kind = cfg["stage"]["kind"]
    if kind not in stages:
        raise TrainError(f"stage kind {kind!r}: allowed are {', '.join(stages)}")
    at_least(1, {"stage.batch": cfg["stage"]["batch"], "threads": cfg["threads"]})
    cfg = dict(cfg) | {"processes": (processes := processes_of(cfg))}
    if processes > (gpus := torch.cuda.device_count() if torch.cuda.is_available() else processes):
        raise TrainError(f"processes={processes}: each needs a GPU of its own, and there is {gpus}; processes={gpus} will do")
    if kind != "hearing":
        require_data(cfg)
    if (made := Path(cfg["out"]) / PROTOCOL).is_file():
        claim(made, protocol(cfg))  # before hours of decoding
    if processes > 1 and "RANK" not in os.environ:
        together(train, (cfg,), processes)
        return Path(cfg["out"]) / "weights"
    torch.set_num_threads(max(1, cfg["threads"] // processes))
    trainer = stages[kind](cfg)
    trainer.run()
    return trainer.out / "weights"


def processes_of(cfg: Mapping[str, Any]) -> int:
    """As many as are asked for, or were started by a launcher as torchrun; without, one a GPU, or one a thread where there is
    none, but no more than can share a batch evenly. Raises TrainError."""
    batch, asked, launched = cfg["stage"]["batch"], cfg["processes"], int(os.environ.get("WORLD_SIZE", 0))
    if launched and asked not in (None, launched):
        raise TrainError(f"processes={asked}: a launcher has started {launched}")
    asked = launched or asked
    if asked is None:
        able = torch.cuda.device_count() if torch.cuda.is_available() else cfg["threads"]
        return max(count for count in range(1, min(able, batch) + 1) if batch % count == 0)
    at_least(1, {"processes": asked}, int)
    if batch % asked:
        raise TrainError(f"{asked} processes cannot share a batch of {batch} evenly")
    return asked


def protocol(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """All that makes a run another one, by dotted keys; how long it goes on and how fast does not. `init` is its weights,
    wherever they are."""
    asked = flat({key: cfg[key] for key in ("data", "tokenizer", "seed", "processes", "stage")})
    own = asked_otherwise(cfg["model"]) if cfg["init"] else flat(cfg["model"])
    made = {f"model.{key}": value for key, value in own.items()}
    made |= {"init": checkpoint.fingerprint(cfg["init"])} if cfg["init"] else {}
    infos = [Path(folder) / INFO for folder in data_of(cfg).split(",")]
    counts = {f"episodes in {file.parent.parent}": read_json(file)["total_episodes"] for file in infos if file.is_file()}
    return {key: value for key, value in (asked | made | counts).items() if key not in NO_MATTER}


def demos(cfg: Mapping[str, Any]) -> Trainer:
    """Imitation of LeRobotDatasets v3, ours or from elsewhere; several of one robot, each with its share."""
    plan, readers = schedule(cfg), opened(cfg)
    shares = shares_of(cfg["stage"], readers)
    spec = shared_spec(list(readers), [reader.spec for reader in readers.values()])
    tasks = [episode.task for reader in readers.values() for episode in reader.episodes]
    model, tokenizer, config = start(cfg, spec, tasks)
    fit_statistics(model, [reader.columns() for reader in readers.values()], cfg["init"])
    if model.speech is not None:
        model.speech.requires_grad_(False)  # it learns nothing here; its gradients would be shared all the same
    processor = Processor(model.spec, tokenizer, config["image_size"])
    if long := sorted({task for task in tasks if processor.is_too_long(task)}):
        print(f"{len(long)} of {len(set(tasks))} instructions have more than {MAX_TEXT} tokens; {long[0]!r} is not read whole")
    windows = [windows_of(reader, folder, processor, model.horizon, cfg) for folder, reader in readers.items()]
    return Trainer(model, config, tokenizer, Mixture(windows, shares), plan, cfg["out"], {"tasks": tasks_of(readers)},
                   protocol(cfg))


def opened(cfg: Mapping[str, Any]) -> dict[str, DemoReader]:
    """The datasets of `data` by their folders."""
    return {folder: DemoReader(folder) for folder in data_of(cfg).split(",")}


def data_of(cfg: Mapping[str, Any]) -> str:
    """What the stage learns from, where `data` does not say."""
    data = cfg["data"] or cfg["stage"]["data"]
    return ",".join(data) if isinstance(data, Sequence) and not isinstance(data, str) else str(data)


def require_data(cfg: Mapping[str, Any]) -> None:
    """Raise TrainError where there is no dataset."""
    if missing := [folder for folder in data_of(cfg).split(",") if not (Path(folder) / INFO).is_file()]:
        raise TrainError(f"data={missing[0]}: no LeRobotDataset v3 is there ({INFO} is missing); soma collect makes one")


def shares_of(stage: Mapping[str, Any], readers: Mapping[str, DemoReader]) -> list[float]:
    """`shares`, or without them the datasets' lengths. Raises TrainError."""
    shares = list(stage["shares"]) or [reader.length for reader in readers.values()]
    if len(shares) != len(readers) or not all(isinstance(share, (int, float)) and share > 0 for share in shares):
        raise TrainError(f"stage.shares={shares}: one above 0 for each of the {len(readers)} datasets is needed")
    return shares


def shared_spec(folders: list[str], specs: list[Spec]) -> Spec:
    """Of one robot's datasets. Actions from elsewhere are bounded by what was seen in each, here by what was in all."""
    first = specs[0].action

    def bounded(spec: Spec, low, high) -> Spec:
        same = spec.action.kind == "native" and spec.action.names == first.names
        return replace(spec, action=replace(spec.action, low=tuple(low), high=tuple(high))) if same else spec

    different = [folder for folder, spec in zip(folders, specs)
                 if placed_as(specs[0], bounded(spec, first.low, first.high)) != specs[0]]
    if different:
        raise TrainError(f"datasets of another robot than {folders[0]}: {', '.join(different)}")
    lows, highs = (zip(*(getattr(spec.action, bound) for spec in specs)) for bound in ("low", "high"))
    return bounded(specs[0], map(min, lows), map(max, highs))


def placed_as(known: Spec, spec: Spec) -> Spec:
    """A robot's Spec with all as in a `known` one that need not be the same in all recordings of one robot: the sizes of its
    pictures, where its microphones are, and in which space it worked."""
    cameras = known.cameras if known.cameras.keys() == spec.cameras.keys() else spec.cameras
    microphones = known.microphones if len(known.microphones) == len(spec.microphones) else spec.microphones
    return replace(spec, cameras=cameras, microphones=microphones, action=replace(spec.action, workspace=known.action.workspace))


def dagger(cfg: Mapping[str, Any]) -> Trainer:
    """Imitation as `demos`, with a round of practice after each of the steps in `rounds`: the learner drives in new
    scenes by turns with the experts (policies.scripted.TakeOver), and what they did there is learned from then on, too.
    Raises TrainError for demonstrations that do not say which tasks they show."""
    stage, steps = cfg["stage"], [0, *cfg["stage"]["rounds"], cfg["stage"]["schedule"]["steps"]]
    if not all(isinstance(step, int) for step in steps) or any(later <= step for step, later in zip(steps, steps[1:])):
        raise TrainError(f"rounds {steps[1:-1]}: increasing steps above 0 and below the schedule's {steps[-1]} are needed")
    if not 0.0 < stage["share"] < 1.0:
        raise TrainError(f"stage.share={stage['share']}: a part of each batch, above 0 and below 1, is needed")
    at_least(stage["episodes"], {"stage.first_seed": stage["first_seed"]})  # so that no two rounds share scenes
    readers = opened(cfg)
    if not tasks_of(readers):
        raise TrainError(f"stage=dagger practises the tasks of the demonstrations; {data_of(cfg)} names none")
    tasks, first = task_names(stage["tasks"] or tasks_of(readers)), stage["first_seed"]
    practice = {"env": stage["env"]["kwargs"], "env_id": stage["env"]["id"], "split": "train"}
    practice |= {key: stage[key] for key in ("episodes", "perturb", "safety")}
    _, offered, _ = checked(**practice, seed=first)
    trainer, own = demos(cfg), shares_of(stage, readers)
    require_same(trainer.model.spec, offered)
    for n, step in enumerate(stage["rounds"], 1):
        trainer.run(until=step)
        folder = trainer.out / f"practice_{n}"
        if trainer.accelerator.is_main_process and trainer.step == step:  # else this round is over
            collect(folder, tasks, **practice, seed=first * n, workers=cfg["threads"], learner=str(trainer.out / "weights"))
        trainer.accelerator.wait_for_everyone()
        seen = trainer.data.windows
        own_doing = windows_of(DemoReader(folder), folder, seen[0].processor, trainer.model.horizon, cfg)
        trainer.data = Mixture([*seen, own_doing], with_practice(own, stage["share"], n))
    return trainer


def with_practice(own: Sequence[float], share: float, rounds: int) -> list[float]:
    """Shares in a batch of the demonstrations, `own` among themselves, and of the rounds of practice, `share` together."""
    return [(1 - share) * part / sum(own) for part in own] + [share / rounds] * rounds


def tasks_of(readers: Mapping[str, DemoReader]) -> list[str]:
    """Names of the tasks that the datasets demonstrate, where they say so."""
    return sorted({e.info["task_name"] for r in readers.values() for e in r.episodes if "task_name" in e.info})


def windows_of(reader: DemoReader, folder: str | Path, processor: Processor, horizon: int, cfg: Mapping[str, Any]) -> DemoWindows:
    stage, dropout = cfg["stage"], filled(Dropout, "stage.dropout", cfg["stage"]["dropout"])
    light = filled(Photometric, "stage.photometric", stage["photometric"])
    at_least(1, {"stage.decisions": stage["decisions"]})
    at_least(0, {"stage.queries": stage["queries"]})
    state = peers()
    mine = slice(state.process_index, None, state.num_processes)
    cache = FrameCache.build(reader, frames_of(folder, cfg), processor.image_size, state.is_main_process, mine)
    state.wait_for_everyone()
    return DemoWindows(reader, cache, processor, horizon, stage["batch"] // cfg["processes"], stage["decisions"],
                       cfg["seed"], remix, dropout, stage["queries"], cfg["processes"], light)


def frames_of(folder: str | Path, cfg: Mapping[str, Any]) -> Path:
    """Where a dataset's pictures are decoded: in it, or in a folder of its own in `frames`."""
    if cfg["frames"] is None:
        return Path(folder) / "frames"
    place = hashlib.sha256(str(Path(folder).resolve()).encode()).hexdigest()[:8]  # of two of the same name
    return Path(cfg["frames"]) / f"{Path(folder).name}-{place}"


def hearing(cfg: Mapping[str, Any]) -> Trainer:
    """The speech recogniser of a model that exists (`init`), on a voice bank in `data`, which is spoken if need be. Raises
    envs.tabletop.voice_bank.BankError where `data` holds another."""
    refuse_tokenizer(cfg)
    if asked_otherwise(cfg["model"]):
        raise TrainError("model=... and model.KEY=... count for nothing with stage=hearing: the recogniser is that of init")
    if cfg["init"] is None:
        raise TrainError("stage=hearing needs init=CHECKPOINT: the model whose recogniser is to be trained")
    stage = cfg["stage"]
    check_voices(stage["voices"])
    at_least(1, {"stage.sentences": stage["sentences"]})
    plan, folder = schedule(cfg), Path(data_of(cfg))
    if (folder / INFO).is_file():
        raise TrainError(f"{folder} holds demonstrations: the voice bank needs a folder of its own, as {stage['data']} is")
    model, processor, page = checkpoint.load(cfg["init"])
    if model.speech is None:
        raise TrainError(f"init={cfg['init']}: no recogniser; it needs `speech` in its YAML, and a robot with ears")
    sentences = bank_sentences(stage["sentences"], cfg["seed"])
    with peers().main_process_first():
        bank = VoiceBank.build(folder, sentences, "train", stage["voices"], cfg["seed"], cfg["threads"])
    known = bank_sentences(20 * stage["sentences"], cfg["seed"] + 1)
    model.speech.language.fit([encode(processor.tokenizer, sentence) for sentence in known])
    data = Utterances(bank, processor, stage["batch"] // cfg["processes"], cfg["seed"])
    return Trainer(model, page["model"], processor.tokenizer, data, plan, cfg["out"], page["notes"], protocol(cfg))


def check_voices(voices: Mapping[str, int]) -> None:
    """Raise TrainError for synthesisers that are not to be learned from, or not installed."""
    asked = [engine for engine, count in voices.items() if count]
    if not asked:
        raise TrainError(f"stage.voices={voices}: at least one voice is needed")
    wrong = [engine for engine in asked if engine not in LEARNED_FROM]
    if wrong:
        raise TrainError(f"voices of {', '.join(wrong)}: allowed are {', '.join(LEARNED_FROM)}")
    missing = [engine for engine in asked if engine not in available_engines()]
    if missing:
        raise TrainError("; ".join(f"{engine} needs {ENGINES[engine]}, or stage.voices.{engine}=0" for engine in missing))


def start(cfg: Mapping[str, Any], spec: Spec, tasks: list[str]) -> tuple[EmbodiedModel, PreTrainedTokenizerBase, Mapping]:
    """A fresh model, or one that takes over from `init` all that fits, with its config and tokenizer: (model, tokenizer,
    model config)."""
    torch.manual_seed(cfg["seed"])
    if cfg["init"] is None:
        config = for_cameras(cfg["model"], spec)
        path = cfg["tokenizer"] or config["backbone"]["lm"].get("path")  # a pretrained LM knows its own tokens alone
        tokenizer = tokenizer_at(path) if path else train_tokenizer(tokenizer_text() + tasks)
        return checkpoint.new_model(config, spec, tokenizer), tokenizer, config
    refuse_tokenizer(cfg)
    folder = checkpoint.find(cfg["init"])
    config = for_cameras(changed(checkpoint.page(folder)["model"], cfg), spec)
    tokenizer = load_tokenizer(folder / "tokenizer")
    model = checkpoint.new_model(config, spec, tokenizer)
    copied, new = checkpoint.fit(model, folder)
    print(f"{cfg['init']}: {len(copied)} tensors taken over, {len(new)} new: {', '.join(new[:6])}")
    if own := kept(config, cfg["model"]):
        print(f"as in {cfg['init']}, not as by default: {', '.join(own)}")
    return model, tokenizer, config


def refuse_tokenizer(cfg: Mapping[str, Any]) -> None:
    """Raise TrainError for one beside an `init`, which brings its own, as its language model."""
    if cfg["init"] is not None and cfg["tokenizer"]:
        raise TrainError(f"tokenizer {cfg['tokenizer']}: {cfg['init']} brings its own, without which its words mean nothing")


def asked_otherwise(model: Mapping[str, Any]) -> dict[str, Any]:
    """What of a model's settings is not as it is by default, by dotted keys; a part of another class is wholly so."""
    default, asked = flat(compose("train", [])["model"]), flat(model)
    others = other_parts(default, asked)
    return {key: value for key, value in asked.items() if key.startswith(others) or value != default.get(key)}


def other_parts(known: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[str, ...]:
    """What the keys of those parts begin with that are to be of another class than they are."""
    return tuple(key.removesuffix("_target_") for key in asked if key.endswith("_target_") and asked[key] != known.get(key))


def changed(known: Mapping[str, Any], cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The model config of `init` with all that is asked for otherwise than by default; a part of another class keeps nothing.
    Raises TrainError for another language model, to which init's tokenizer would mean nothing."""
    own, asked = flat(known), asked_otherwise(cfg["model"])
    if lm := [key for key in asked if key.startswith("backbone.lm.")]:
        raise TrainError(f"model.{lm[0]}: init={cfg['init']} brings its own language model, with its words")
    gone = other_parts(own, asked)
    return nested({key: value for key, value in own.items() if not key.startswith(gone)} | asked)


def kept(config: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What of a model config is otherwise than in the settings, though these did not change it: to ask for what is so by default
    changes nothing."""
    own, asked = flat(config), flat(asked)
    return [f"model.{key}={own.get(key)}" for key in asked if own.get(key) != asked[key] and not key.startswith("backbone.lm.")]


def tokenizer_at(path: str) -> PreTrainedTokenizerBase:
    try:
        return load_tokenizer(path)
    except OSError as error:
        raise TrainError(f"{error}; tokenizer=FOLDER says where one is") from error


def for_cameras(config: Mapping, spec: Spec) -> dict:
    """The config with a projector for each of the robot's cameras: a camera it does not know gets the first one's."""
    known = config["projectors"]
    first = next(iter(known.values()))
    return dict(config) | {"projectors": {name: known.get(name, first) for name in spec.cameras}}


def fit_statistics(model: EmbodiedModel, datasets: Sequence[Mapping[str, np.ndarray]], init: str | None = None) -> None:
    """State and senses by their percentiles in the datasets' columns; actions likewise unless the spec bounds them in
    [-1, 1] already. What `init` knows of the same robot stays."""
    fits = {STATE: model.normalize_state} | {SENSE + name: sense.normalize for name, sense in model.senses.items()}
    if model.spec.action.kind != "ee_delta":
        fits[ACTION] = model.normalize_action
    if init is not None:
        page = checkpoint.page(checkpoint.find(init))
        known, senses = Spec.from_dict(page["spec"]), page["model"].get("senses") or {}
        if placed_as(known, replace(model.spec, senses=known.senses)) == known:
            fits = {SENSE + name: sense.normalize for name, sense in model.senses.items() if name not in senses}
    for key, normalizer in fits.items():
        normalizer.fit(*(columns[key] for columns in datasets))


def schedule(cfg: Mapping[str, Any]) -> Schedule:
    """Raises SettingsError for settings that it has not, or of which nothing could be made."""
    plan = filled(Schedule, "stage.schedule", cfg["stage"]["schedule"])
    at_least(0, {"seed": cfg["seed"]})
    for least, names in ((0, ("workers", "warmup")), (1, ("steps", "save_every", "log_every"))):
        at_least(least, {f"stage.schedule.{name}": getattr(plan, name) for name in names})
    return replace(plan, seed=cfg["seed"], train=tuple(plan.train))
