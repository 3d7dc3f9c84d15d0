"""A node's command line, as ROS 2 has it: --ros-args -p NAME:=VALUE -r FROM:=TO -r __ns:=/SPACE, either with NODE: in front for
one node alone; and its parameters."""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class ArgumentError(ValueError):
    """A command line that cannot be read; the message says what came and what is allowed."""


class Parameter(NamedTuple):
    """low and high: the range of a number. of: what a list is of."""

    default: Any
    about: str
    low: float | None = None
    high: float | None = None
    of: type = str

    @property
    def range(self) -> str:
        return "" if self.low is None else f"{self.low} to {self.high}"


PARAM, REMAP = ("-p", "--param"), ("-r", "--remap")
USE_SIM_TIME = Parameter(False, "take the time from /clock")


def valid(given: Mapping[str, Any], described: Mapping[str, Parameter], strict: bool = True) -> dict[str, Any]:
    """The value of each described parameter: what was given, else its default. strict: others must not be given. Raises
    ArgumentError."""
    unknown = sorted(set(given) - set(described) - {"use_sim_time"})
    if unknown and strict:
        raise ArgumentError(f"no parameter {', '.join(unknown)}: allowed are {', '.join(described)}, use_sim_time")
    return {name: _fitting(name, given.get(name, p.default), p) for name, p in described.items()}


def _fitting(name: str, value: Any, parameter: Parameter) -> Any:
    wanted = type(parameter.default)
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise ArgumentError(f"parameter {name}: {wanted.__name__} is needed, got {value!r}")
    if wanted is list:
        one = Parameter(parameter.of(), parameter.about)
        return [_fitting(f"{name}, number {i}", item, one) for i, item in enumerate(value, 1)]
    if parameter.low is not None and not parameter.low <= value <= parameter.high:
        raise ArgumentError(f"parameter {name}, {parameter.about}: {parameter.range} is allowed, got {value}")
    return value


def known(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """The entry of a table; `what` says of what. Raises ArgumentError naming those that there are."""
    if name not in table:
        raise ArgumentError(f"{what}: allowed are {', '.join(table)}, got {name!r}")
    return table[name]


def device_of(name: str) -> str:
    """A device of PyTorch. Raises ArgumentError for one that is not there."""
    import torch

    found = [f"cuda:{n}" for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    there = ["cpu", *(["cuda"] if found else []), *found]
    return known(f"parameter device (PyTorch {torch.__version__})", name, dict(zip(there, there)))


class Arguments(NamedTuple):
    """name: of the node, "" for its own. files: of parameters."""

    parameters: dict[str, Any]
    remap: dict[str, str]
    namespace: str
    name: str
    files: list[str]


class Rule(NamedTuple):
    """NODE:NAME:=VALUE of a command line; node "" is every node."""

    node: str
    name: str
    value: str

    @classmethod
    def of(cls, pair: str) -> "Rule":
        names, _, value = pair.partition(":=")
        node, _, name = names.rpartition(":")
        return cls(node, name, value)

    def meets(self, node: str) -> bool:
        """Whether it is for a node of this name, with its namespace or without."""
        return not self.node or self.node.strip("/") in (node.strip("/"), node.rpartition("/")[2])


def read(words: Sequence[str], node: str = "") -> Arguments:
    """What is for the node of this name, or of the one that it is given here. Values are YAML. Raises ArgumentError."""
    parameters, remaps, files, rest = [], [], [], [word for word in words if word not in ("--ros-args", "--")]
    while rest:
        flag, pair = rest.pop(0), rest.pop(0) if rest else ""
        if flag == "--params-file" and pair:
            files.append(pair)
        elif flag in (*PARAM, *REMAP) and ":=" in pair:
            (parameters if flag in PARAM else remaps).append(Rule.of(pair))
        else:
            raise ArgumentError(f"{flag} {pair}: allowed are -p NAME:=VALUE, -r FROM:=TO, either with NODE: in front, and "
                                "--params-file FILE")
    own = {r.name: r.value for r in remaps if r.name in ("__ns", "__node") and r.meets(node)}
    named = own.get("__node", "")
    remap = {r.name: r.value for r in remaps if r.name not in ("__ns", "__node") and r.meets(named or node)}
    values = {r.name: of_yaml(r) for r in parameters if r.meets(named or node)}
    return Arguments(values, remap, own.get("__ns", "/"), named, files)


def of_yaml(rule: Rule) -> Any:
    try:
        return yaml.safe_load(rule.value)
    except yaml.YAMLError as error:
        raise ArgumentError(f"-p {rule.name}:={rule.value}: a value in YAML is needed ({error})") from error


def of_files(files: Sequence[str], node: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What files of parameters, as ROS has them, say for every node, and for the one of this whole name. Raises
    ArgumentError."""
    shared, own = {}, {}
    for file in files:
        try:
            whole = yaml.safe_load(Path(file).read_text()) or {}
            for name, body in whole.items():
                if name == "/**":
                    shared |= body["ros__parameters"]
                elif name.strip("/") == node.strip("/") or (name[:4] == "/**/" and node.endswith(name[3:])):
                    own |= body["ros__parameters"]
        except (OSError, yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
            raise ArgumentError(f"--params-file {file}: NODE: ros__parameters: NAME: VALUE is needed ({error})") from error
    return shared, own


def meant(words: Sequence[str], node: str) -> set[str]:
    """Names of the parameters that a command line gives to the node of this whole name, and not to every node."""
    pairs = list(zip(words, words[1:]))
    single = {rule.name for rule in (Rule.of(value) for flag, value in pairs if flag in PARAM) if rule.meets(node)}
    return single | set(of_files([value for flag, value in pairs if flag == "--params-file"], node)[1])


def usage(name: str, build) -> str:
    """What a node does, and its parameters."""
    rows = [f"  {key + ' := ' + str(p.default):27s} {p.about}{f' ({p.range})' if p.range else ''}"
            for key, p in (build.PARAMETERS | {"use_sim_time": USE_SIM_TIME}).items()]
    return "\n".join([f"{name}: {inspect.getdoc(build)}", "", "Parameters (--ros-args -p NAME:=VALUE):", *rows])


def run(name: str, build, words: Sequence[str]) -> int:
    """Build what a node does (`build(node)`, its `PARAMETERS` described) around a node of this name, and serve it until
    SIGINT or SIGTERM; what has a `wind_down` ends itself then, or at the second signal at once. The exit status: 0, or 2 for a
    mistake in what was asked."""
    if {"--help", "-h"} & set(words):
        print(usage(name, build))
        return 0
    try:
        return serve(name, build, words)
    except ArgumentError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def serve(name: str, build, words: Sequence[str]) -> int:
    from ros_nodes.transport import node_class

    node = node_class().from_words(name, words)
    endings = [node.stop]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: (endings.pop() if len(endings) > 1 else endings[0])())
    try:
        built = build(node)
        endings += [built.wind_down] if hasattr(built, "wind_down") else []
        node.spin()
    finally:
        node.close()
    return 0
