"""Managed nodes: the life cycle of ROS 2 (design.ros2.org/articles/node_lifecycle.html), driven by `ros2 lifecycle`.

The states, the transitions and their numbers are those of lifecycle_msgs; services and the event topic are the ones that
rclcpp_lifecycle offers, whatever carries them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ros_nodes.interfaces import message

UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = "unconfigured", "inactive", "active", "finalized"
STATES = {"unknown": 0, UNCONFIGURED: 1, INACTIVE: 2, ACTIVE: 3, FINALIZED: 4}


class Transition(NamedTuple):
    number: int
    label: str
    start: str
    goal: str


TRANSITIONS = (
    Transition(1, "configure", UNCONFIGURED, INACTIVE),
    Transition(2, "cleanup", INACTIVE, UNCONFIGURED),
    Transition(3, "activate", INACTIVE, ACTIVE),
    Transition(4, "deactivate", ACTIVE, INACTIVE),
    Transition(5, "shutdown", UNCONFIGURED, FINALIZED),
    Transition(6, "shutdown", INACTIVE, FINALIZED),
    Transition(7, "shutdown", ACTIVE, FINALIZED),
)


class Lifecycle:
    """steps: label -> what is done on the way; a step that raises ValueError or OSError, as for weights that are not
    there, is named in the log, and the state stays. end(): ends the node, once it is finalized. `state` is one of STATES."""

    def __init__(self, node, steps: dict[str, Callable[[], None]], end: Callable[[], None]):
        self.node, self.steps, self.end, self.state = node, steps, end, UNCONFIGURED
        self.events = node.publisher("lifecycle_msgs/msg/TransitionEvent", "~/transition_event", "reliable")
        node.service("lifecycle_msgs/srv/ChangeState", "~/change_state", self.change_asked)
        node.service("lifecycle_msgs/srv/GetState", "~/get_state", self.state_asked)
        node.service("lifecycle_msgs/srv/GetAvailableStates", "~/get_available_states", self.states_asked)
        for name, listed in (("available_transitions", self.open), ("transition_graph", lambda: TRANSITIONS)):
            node.service("lifecycle_msgs/srv/GetAvailableTransitions", f"~/get_{name}", self.transitions_asked(listed))

    def open(self) -> list[Transition]:
        """The transitions that leave the present state."""
        return [t for t in TRANSITIONS if t.start == self.state]

    def change(self, label: str) -> bool:
        """Go through a transition; whether it was open and its step succeeded."""
        found = next((t for t in self.open() if t.label == label), None)
        if found is None:
            self.node.log(f"no {label!r} from {self.state}: open are {', '.join(t.label for t in self.open()) or 'none'}")
            return False
        try:
            self.steps.get(label, lambda: None)()
        except (ValueError, OSError) as error:
            self.node.log(f"{label} failed, still {self.state}: {error}")
            return False
        self.state = found.goal
        self.events(self.event(found))
        if self.state == FINALIZED:
            self.end()
        return True

    # ---- services

    def change_asked(self, request, response):
        """By number, or by label where the number is 0."""
        asked, labels = request.transition, {t.number: t.label for t in self.open()}
        response.success = self.change(labels.get(asked.id, asked.label or f"transition {asked.id}"))
        return response

    def state_asked(self, request, response):
        fill_state(response.current_state, self.state)
        return response

    def states_asked(self, request, response):
        response.available_states = [fill_state(message("lifecycle_msgs/msg/State")(), name) for name in STATES]
        return response

    def transitions_asked(self, listed: Callable[[], Any]):
        def answer(request, response):
            response.available_transitions = [
                self.describe(message("lifecycle_msgs/msg/TransitionDescription")(), t) for t in listed()]
            return response

        return answer

    def event(self, transition: Transition):
        out = self.describe(message("lifecycle_msgs/msg/TransitionEvent")(), transition)
        out.timestamp = round(self.node.now() * 1e9)
        return out

    @staticmethod
    def describe(out, transition: Transition):
        """Fill in the fields that TransitionEvent and TransitionDescription share."""
        out.transition.id, out.transition.label = transition.number, transition.label
        fill_state(out.start_state, transition.start)
        fill_state(out.goal_state, transition.goal)
        return out


def fill_state(out, name: str):
    out.id, out.label = STATES[name], name
    return out
