"""A node's command line, as ROS 2 has it: --ros-args -p NAME:=VALUE -r FROM:=TO -r __ns:=/SPACE; and its parameters."""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml


class ArgumentError(ValueError):
    """A command line that cannot be read; the message says what came and what is allowed."""


class Parameter(NamedTuple):
    """low and high: the range of a number."""

    default: Any
    about: str
    low: float | None = None
    high: float | None = None

    @property
    def range(self) -> str:
        return "" if self.low is None else f"{self.low} to {self.high}"


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
    if parameter.low is not None and not parameter.low <= value <= parameter.high:
        raise ArgumentError(f"parameter {name}, {parameter.about}: {parameter.range} is allowed, got {value}")
    return value


def known(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """The entry of a table; `what` says of what. Raises ArgumentError naming those that there are."""
    if name not in table:
        raise ArgumentError(f"{what}: allowed are {', '.join(table)}, got {name!r}")
    return table[name]


class Arguments(NamedTuple):
    parameters: dict[str, Any]
    remap: dict[str, str]
    namespace: str
    name: str  # of the node, "" for its own


def read(words: Sequence[str]) -> Arguments:
    """Values are YAML. Raises ArgumentError."""
    parameters, remap, rest = {}, {}, [word for word in words if word not in ("--ros-args", "--")]
    while rest:
        flag, pair = rest.pop(0), rest.pop(0) if rest else ""
        name, found, value = pair.partition(":=")
        if flag not in ("-p", "--param", "-r", "--remap") or not found:
            raise ArgumentError(f"{flag} {pair}: allowed are -p NAME:=VALUE and -r FROM:=TO")
        if flag in ("-p", "--param"):
            parameters[name] = yaml.safe_load(value)
        else:
            remap[name] = value
    namespace, name = remap.pop("__ns", "/"), remap.pop("__node", "")
    return Arguments(parameters, remap, namespace, name)


def usage(name: str, build) -> str:
    """What a node does, and its parameters."""
    rows = [f"  {key + ' := ' + str(p.default):28s}{p.about}{f' ({p.range})' if p.range else ''}"
            for key, p in (build.PARAMETERS | {"use_sim_time": USE_SIM_TIME}).items()]
    return "\n".join([f"{name}: {inspect.getdoc(build)}", "", "Parameters (--ros-args -p NAME:=VALUE):", *rows])


def run(name: str, build, words: Sequence[str]) -> int:
    """Build what a node does (`build(node)`, its `PARAMETERS` described) around a node of this name, and serve it until
    SIGINT or SIGTERM. The exit status: 0, or 2 for a mistake in what was asked."""
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
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: node.stop())
    try:
        build(node)
        node.spin()
    finally:
        node.close()
    return 0
