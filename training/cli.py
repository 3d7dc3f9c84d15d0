"""The command `soma`: verbs with key=value settings. What a verb needs is imported when it is called."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from typing import Any, Callable, Mapping, Sequence

from training import settings
from training.settings import SettingsError

ORDER = ("demo", "run", "collect", "data", "train", "eval", "report", "export", "doctor")
POSITIONAL = {"data": ("action", "dir"), "report": ("dir",)}  # settings that may be given without their key


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 where something was found wanting, 2 for a mistake in what was asked, 3 for a fault of ours."""
    words = list(sys.argv[1:] if argv is None else argv)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is finished is kept
    try:
        return dispatch(words)
    except KeyboardInterrupt:
        print("\nstopped; collect, train and eval go on where they stopped when they are run again", file=sys.stderr)
        return 130
    except Exception as error:
        if not settings.is_told(type(error).__module__, str(error)):
            traceback.print_exc()
            return 3
        print(f"soma: {error}", file=sys.stderr)
        return 2


def dispatch(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(overview())
        return 0
    verb, rest = settings.require("verb", words[0], ORDER), words[1:]
    if {"--help", "-h"} & set(rest):
        print(verb_help(verb))
        return 0
    show = "--show" in rest
    overrides = positional(verb, [word for word in rest if word != "--show"])
    config = settings.compose(verb, overrides)
    if show:
        print(as_yaml(config), end="")
        return 0
    return VERBS[verb](config)


def positional(verb: str, words: list[str]) -> list[str]:
    """`check DIR` as action=check dir=DIR."""
    names = iter(POSITIONAL.get(verb, ()))
    named = [word if "=" in word else f"{name}={word}" if (name := next(names, None)) else word for word in words]
    for word in named:
        if word.startswith("-"):
            raise SettingsError(f"there is no option {word!r}; allowed are --help, --show and key=value")
    return named


def as_yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=False)


# ---- help


def overview() -> str:
    lines = ["soma: an agent that hears, sees, feels, reads and moves a robot", "", "soma VERB [key=value ...]", ""]
    lines += [f"  {verb:9s}{settings.summary(verb)}" for verb in ORDER]
    lines += ["", "soma VERB --help   what a verb does, its keys with their defaults, and examples",
              "soma VERB --show   its settings as they would be used, as YAML"]
    return "\n".join(lines)


def verb_help(verb: str) -> str:
    lines = [f"soma {verb} [key=value ...]", "", settings.heading(verb), "", "Keys and defaults:"]
    for name, (default, choices) in settings.groups(verb).items():
        lines.append(f"  {name + '=' + default:27s} one of {', '.join(choices)}; its keys are {name}.KEY (see --show)")
    lines += [f"  {key.name + '=' + key.default:27s} {key.comment}" for key in settings.keys(verb)]
    if chosen := settings.groups(verb):
        lines.append(f"What the keys of {', '.join(chosen)} mean is said in {settings.CONFIGS}/")
    return "\n".join(lines)


# ---- the verbs


def collect(cfg: Mapping[str, Any]) -> int:
    from training import play
    from training.collect import collect as run

    tasks = play.task_names(cfg["tasks"], env_id=cfg["env"]["id"])
    play.check_split(cfg["split"], cfg["instruct"])
    play.refuse_told(cfg["env"]["kwargs"])
    env = dict(cfg["env"]["kwargs"]) | {"instruct": cfg["instruct"]}
    counts = run(cfg["out"], tasks, cfg["episodes"], env, cfg["env"]["id"], cfg["split"], cfg["seed"], cfg["perturb"],
                 cfg["workers"], cfg["learner"] and str(cfg["learner"]), cfg["beginning"], cfg["policy"], cfg["safety"])
    for task, outcome in counts.items():
        print(f"{task:16s}" + "  ".join(f"{what} {n}" for what, n in outcome.items()))
    return 0


def train(cfg: Mapping[str, Any]) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads do not spin on the cores that the data's loaders need
    from training.stages import train as run

    print(f"weights: {run(cfg)}")
    return 0


def evaluate(cfg: Mapping[str, Any]) -> int:
    from training import evaluate as evaluation

    return evaluation.main(cfg)


def run(cfg: Mapping[str, Any]) -> int:
    from training import run as episode

    return episode.main(cfg)


def demo(cfg: Mapping[str, Any]) -> int:
    from training import demo as demonstration

    return demonstration.main(cfg)


def data(cfg: Mapping[str, Any]) -> int:
    if settings.require("action", cfg["action"], ["check", "from-bag"]) == "from-bag":
        return from_bag(cfg)
    from training.data.damage import check_dataset

    findings = check_dataset(cfg["dir"], cfg["decode"])
    print("\n".join(map(str, findings)) or f"{cfg['dir']}: nothing wrong was found")
    return int(bool(findings))


def from_bag(cfg: Mapping[str, Any]) -> int:
    from ros_nodes.convert import TABLETOP, Joints
    from training.data.from_bag import from_bag as convert

    joints = Joints(tuple(cfg["joints"]) or TABLETOP.names, cfg["grip"])
    lines = convert(cfg["dir"], cfg["out"], cfg["arm"], cfg["hz"], cfg["task"], cfg["cameras"], joints, cfg["oldest"],
                    failures=cfg["failures"])
    print("\n".join(lines))
    return int(not any(line.endswith("frames") for line in lines))


def report(cfg: Mapping[str, Any]) -> int:
    from training.compare import compare
    from training.report import rebuild

    folders = cfg["dir"].split(",")
    print(rebuild(folders[0]) if len(folders) == 1 else compare(folders))
    return 0


def export(cfg: Mapping[str, Any]) -> int:
    from training import export as exporting

    return exporting.main(cfg)


def doctor(cfg: Mapping[str, Any]) -> int:
    from training.doctor import main as examine

    return examine(cfg["disk"], cfg["recipe"], cfg["without"])


VERBS: dict[str, Callable[[Mapping[str, Any]], int]] = {
    "demo": demo, "run": run, "collect": collect, "data": data, "train": train, "eval": evaluate, "report": report,
    "export": export, "doctor": doctor,
}

if __name__ == "__main__":
    sys.exit(main())
