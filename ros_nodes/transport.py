"""The one seam between the nodes and what carries them: rclpy where ROS 2 is sourced, else its wire protocol over DDS.

Both `Node` classes (ros_nodes.rcl, ros_nodes.dds) have the same methods and take the messages of ros_nodes.interfaces.
SOMA_TRANSPORT=rclpy or SOMA_TRANSPORT=dds says which, whatever is installed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

from ros_nodes.arguments import known


WAITING = 16  # calls of a client that wait for their reply; older ones are given up
LAST_WORDS = 10  # commands to stand that a node sends before it ends, so that one comes
EVERY = 10.0  # s between two lines of one kind in the log


class Quality(NamedTuple):
    """How a topic is carried. reliable: sent again until it has come. latched: the last ones also for those who come
    later. depth: messages that wait."""

    reliable: bool
    latched: bool
    depth: int


QUALITY = {"sensor": Quality(False, False, 5), "reliable": Quality(True, False, 10), "latched": Quality(True, True, 1),
           "stream": Quality(True, False, 100)}  # of which nothing may be missed, such as sound


def quality(kind: str) -> Quality:
    """Raises ValueError for another kind than those of QUALITY."""
    return known("quality of service", kind, QUALITY)


class Remarks:
    """remark(kind, text): what may go wrong again and again, as a line of the log; of each kind one in EVERY s, which says how
    many were left out before it."""

    def __init__(self, log: Callable[[str], None]):
        self.log, self.told = log, {}

    def __call__(self, kind: str, text: str) -> None:
        now = time.monotonic()
        since, left_out = self.told.get(kind, (float("-inf"), 0))
        if now - since < EVERY:
            self.told[kind] = (since, left_out + 1)
            return
        self.told[kind] = (now, 0)
        self.log(f"{text} ({left_out} more of the kind before)" if left_out else text)


def guarded(node: Any, what: str, act: Callable[..., Any], *given: Any) -> Any:
    """What act(*given) gives, None where it fails: that is named in the log, for no message, call or timer may end a node."""
    try:
        return act(*given)
    except Exception as error:
        why = f"{what}: {type(error).__name__}"
        node.remark(why, f"{why}: {error}")


def ignore(response: Any) -> None:
    """For who calls a service and needs no answer."""


def node_class() -> type:
    """The class of nodes to run. Raises ArgumentError for a SOMA_TRANSPORT that there is not."""
    asked = os.environ.get("SOMA_TRANSPORT") or ("rclpy" if find_spec("rclpy") else "dds")
    return known("SOMA_TRANSPORT", asked, {"rclpy": _rclpy, "dds": _dds})()


def _rclpy() -> type:
    from ros_nodes.rcl import Node

    return Node


def _dds() -> type:
    from ros_nodes.dds import Node

    return Node
