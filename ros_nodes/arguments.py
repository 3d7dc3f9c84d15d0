"""A node's command line, as ROS 2 has it: --ros-args -p NAME:=VALUE -r FROM:=TO -r __ns:=/SPACE."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml


class ArgumentError(ValueError):
    """A command line that cannot be read; the message says what came and what is allowed."""


class Arguments(NamedTuple):
    parameters: dict[str, Any]
    remap: dict[str, str]
    namespace: str


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
    return Arguments(parameters, remap, remap.pop("__ns", "/"))


def run(name: str, build, words: Sequence[str]) -> int:
    """Build what a node does (`build(node)`) around a node of this name, and serve it until SIGINT or SIGTERM."""
    from ros_nodes.dds import Node

    asked = read(words)
    node = Node(name, asked.namespace, asked.parameters, asked.remap)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: node.stop())
    build(node)
    node.spin()
    return 0
