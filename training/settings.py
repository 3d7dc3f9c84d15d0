"""Settings of the command line: one YAML a verb under configs/, composed by hydra, overridden by key=value.

What a verb's --help shows is read from that YAML: the comment at its head, and the comment behind each key.
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

import yaml

from training.files import write_whole

OURS = ("agent", "envs", "policies", "training", "ros_nodes")  # packages whose own errors are what a user is told
# what libraries of all kinds say of a full disk, or of files of other people, each in an error of its own
TOLD = tuple(map(os.strerror, (errno.ENOSPC, errno.EACCES, errno.EROFS)))
OPEN = ("env.kwargs.", "stage.env.kwargs.", "stage.schedule.", "stage.dropout.", "model.")  # take keys that the YAML has not
CONFIGS = Path(__file__).parent / "configs"
ENTRY = re.compile(r"^(\w+):\s*(.*?)(?:\s+#\s*(.*))?$")
NEEDED = {bool: "true or false", int: "a whole number", float: "a number"}  # by a default's type
PLAIN = re.compile(r"[\w./:+-]*")  # what hydra's grammar takes as it stands


def is_told(kind: str, message: str) -> bool:
    """Whether an error of a class in module `kind` says what a user can do; any other is a fault, shown with its traceback."""
    return kind.partition(".")[0] in OURS or any(said in message for said in TOLD)


class SettingsError(ValueError):
    """A setting that does not exist or does not fit; the message says what came and what is allowed."""


class Key(NamedTuple):
    name: str
    default: str
    comment: str


def verbs() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def heading(verb: str) -> str:
    """The comment at the head of a verb's YAML."""
    lines = (CONFIGS / f"{verb}.yaml").read_text().splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    return "\n".join(line[2:] for line in head)


def summary(verb: str) -> str:
    """The first sentence of the heading."""
    paragraph = " ".join(heading(verb).split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".")


def keys(verb: str) -> list[Key]:
    """The verb's own keys in the order of its YAML, without its groups."""
    lines = (CONFIGS / f"{verb}.yaml").read_text().splitlines()
    found = [Key(*(part or "" for part in match.groups())) for match in map(ENTRY.match, lines) if match]
    return [key for key in found if key.name != "defaults"]


def groups(verb: str) -> dict[str, tuple[str, list[str]]]:
    """Group name -> (what is chosen by default, all choices)."""
    defaults = yaml.safe_load((CONFIGS / f"{verb}.yaml").read_text()).get("defaults", [])
    chosen = {name: choice for entry in defaults if isinstance(entry, dict) for name, choice in entry.items()}
    return {name: (choice, sorted(p.stem for p in (CONFIGS / name).glob("*.yaml"))) for name, choice in chosen.items()}


def compose(verb: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The verb's settings as plain dictionaries. Raises SettingsError."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    choices, rest = _split(verb, overrides)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        base = hydra_compose(verb, choices)
        _check_keys(base, rest)
        try:
            config = hydra_compose(verb, choices + [_quoted(base, item) for item in rest])
        except (HydraException, OmegaConfBaseException) as error:
            raise SettingsError(f"{' '.join(rest)}: {str(error).splitlines()[0]}") from error
    _check_types(base, config, rest)
    return OmegaConf.to_container(config, resolve=True)


def nearest(word: str, allowed: Iterable[str], what: str) -> str:
    """The message for a word that is not among the allowed ones."""
    allowed = list(allowed)
    close = get_close_matches(word, allowed, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"there is no {what} {word!r}; {hint}allowed are {', '.join(allowed)}"


def require(what: str, value: str, allowed: Iterable[str]) -> str:
    """The value, if it is among the allowed ones. Raises SettingsError."""
    if value not in (allowed := list(allowed)):
        raise SettingsError(nearest(value, allowed, what))
    return value


def at_least(least: int, settings: Mapping[str, float], kind: type = float) -> None:
    """Raise SettingsError for the first of the settings (name -> value) that is below, or no number of the kind, float or int."""
    for name, value in settings.items():
        _check_type(name, value, value, kind())
        if value < least:
            raise SettingsError(f"{name}={value}: at least {least} is needed")


def filled(kind: type, branch: str, values: Mapping[str, Any]) -> Any:
    """A dataclass with defaults from a branch of the settings. Raises SettingsError for a key that it has not, or a value
    of another type than the default's."""
    defaults = kind()
    for name, value in values.items():
        require(f"key of {branch}", name, [field.name for field in fields(kind)])
        _check_type(f"{branch}.{name}", value, value, getattr(defaults, name))
    return replace(defaults, **values)


def claim(file: Path, protocol: Mapping[str, Any]) -> None:
    """Note in a JSON file how its folder's contents are made, or see that they are made so already. Raises SettingsError
    naming what is not the same."""
    make_folder(file.parent)
    plain = json.loads(json.dumps(protocol))
    if not file.is_file():
        write_whole(file, json.dumps(plain, indent=1))
    known = protocol_in(file)
    changed = [f"{key} was {known.get(key)!r}, is now {plain.get(key)!r}" for key in {**known, **plain}
               if known.get(key) != plain.get(key)]
    if changed:
        raise SettingsError(f"{file.parent} was made with other settings: {'; '.join(changed)}. Take another out=FOLDER")


def make_folder(out: str | Path) -> None:
    """Make a folder for results, if it is not there. Raises SettingsError where it cannot be."""
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise SettingsError(f"out={out}: a folder is needed, there is a file") from error
    except OSError as error:
        raise SettingsError(f"out={out}: the folder cannot be made ({error.strerror})") from error


def protocol_in(file: Path) -> dict[str, Any]:
    """What `claim` noted. Raises SettingsError."""
    try:
        return dict(json.loads(file.read_text()))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{file} does not say how its folder was made ({error}); take another out=FOLDER") from error


def flat(branch: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf."""
    found = {}
    for name, value in branch.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    tree: dict[str, Any] = {}
    for name, value in leaves.items():
        *branches, last = name.split(".")
        branch = tree
        for part in branches:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


def _split(verb: str, overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """(choices of groups, settings of keys)."""
    offered, choices, rest = groups(verb), [], []
    for item in overrides:
        name, equals, value = item.partition("=")
        if item.startswith("~") and (equals or item.count(".") < 2):
            raise SettingsError(f"{item!r}: ~GROUP.PART.KEY leaves out a part's key, as ~model.generator.draws does")
        if not equals and not item.startswith("~"):
            raise SettingsError(f"{item!r}: settings are written key=value (soma {verb} --help lists the keys)")
        if name in offered:
            require(f"{name}=", value, offered[name][1])
        (choices if name in offered else rest).append(item)
    return choices, rest


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value, of every leaf and every branch."""
    found = {}
    for name, value in node.items_ex(resolve=False) if hasattr(node, "items_ex") else ():
        found |= {prefix + name: value} | _flat(value, f"{prefix}{name}.")
    return found


def _check_keys(base, overrides: Sequence[str]) -> None:
    known = _flat(base)
    for item in overrides:
        name = item.partition("=")[0].lstrip("+~")
        parent = known.get(name.rpartition(".")[0])
        new_in_free_part = parent is not None and not len(parent) if hasattr(parent, "keys") else False
        if name not in known and not new_in_free_part and not (item.startswith("+") and name.startswith(OPEN)):
            more = "; +KEY=VALUE adds a key" if name.startswith(OPEN) else ""
            raise SettingsError(nearest(name, _siblings(name, known), "key") + more)


def _siblings(name: str, known: dict) -> list[str]:
    """The keys that could have been meant: those of the same branch, or the topmost."""
    branch = name.rpartition(".")[0]
    while branch and branch not in known:
        branch = branch.rpartition(".")[0]
    depth = branch.count(".") + 2 if branch else 1
    return [key for key in known if key.startswith(branch) and len(key.split(".")) == depth]


def _quoted(base, item: str) -> str:
    """The override as hydra's grammar wants it: lists in brackets, words with spaces and marks in quotes."""
    from omegaconf import ListConfig, OmegaConf

    if item.startswith("~"):
        return item
    name, _, value = item.partition("=")
    default = OmegaConf.select(base, name.lstrip("+"), throw_on_missing=False)
    if isinstance(default, ListConfig):
        return item if value.startswith("[") else f"{name}=[{value}]"
    if type(default) in NEEDED and "," in value:  # which hydra's grammar takes for several runs
        _check_type(name, value, value, default)
    free = default is None and value[:1] not in ("[", "{") and not PLAIN.fullmatch(value)
    if free or (isinstance(default, str) and value != "null"):
        return f"{name}={_in_quotes(value)}"
    new = default is None and name.lstrip("+") not in _flat(base)
    return f"+{item}" if new and not item.startswith("+") else item


def _in_quotes(value: str) -> str:
    return '"' + re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + (found[2] and '\\"'), value) + '"'


def _check_types(base, config, overrides: Sequence[str]) -> None:
    from omegaconf import OmegaConf

    for item in (item for item in overrides if not item.startswith("~")):
        name, _, text = item.partition("=")
        default, value = (OmegaConf.select(c, name.lstrip("+")) for c in (base, config))
        _check_type(name, text, value, default)


def _check_type(name: str, text: Any, value: Any, default: Any) -> None:
    fits = type(value) is type(default) or (isinstance(default, float) and type(value) is int)
    if type(default) in NEEDED and not fits:
        raise SettingsError(f"{name}={text}: {NEEDED[type(default)]} is needed (default {str(default).lower()})")
