"""A managed node goes through ROS 2's life cycle as `ros2 lifecycle` asks for it."""

import pytest

from ros_nodes.arguments import ArgumentError, Parameter, known, usage, valid
from ros_nodes.interfaces import message
from ros_nodes.lifecycle import ACTIVE, FINALIZED, INACTIVE, STATES, TRANSITIONS, UNCONFIGURED, Lifecycle
from tests.by_hand import HandNode


def asked(node, number=0, label=""):
    transition = message("lifecycle_msgs/msg/Transition")(number, label)
    return node.services["~/change_state"](transition=transition).success


def test_transitions_are_done_in_order_and_told():
    done, node = [], HandNode()
    steps = {label: lambda label=label: done.append(label) for label in ("configure", "activate", "deactivate")}
    life = Lifecycle(node, steps, node.stop)
    assert life.state == UNCONFIGURED and not asked(node, label="activate")
    assert "no 'activate' from unconfigured: open are configure, shutdown" in node.said[-1]
    assert asked(node, label="configure") and life.state == INACTIVE
    assert asked(node, number=3) and life.state == ACTIVE and done == ["configure", "activate"]
    state = node.services["~/get_state"]().current_state
    assert (state.id, state.label) == (3, "active")
    event = node.sent["~/transition_event"][-1]
    assert event.timestamp == 100_000_000_000
    assert (event.transition.id, event.start_state.label, event.goal_state.label) == (3, "inactive", "active")
    open_now = [t.transition.label for t in node.services["~/get_available_transitions"]().available_transitions]
    assert open_now == ["deactivate", "shutdown"]
    assert len(node.services["~/get_transition_graph"]().available_transitions) == len(TRANSITIONS)
    assert [s.id for s in node.services["~/get_available_states"]().available_states] == list(STATES.values())
    assert asked(node, label="deactivate") and asked(node, label="cleanup") and life.state == UNCONFIGURED
    assert asked(node, label="shutdown") and life.state == FINALIZED and not node.running


def test_a_step_that_fails_leaves_the_state_and_says_why():
    def configure():
        raise FileNotFoundError("no weights in there")

    node = HandNode()
    life = Lifecycle(node, {"configure": configure}, node.stop)
    assert not asked(node, number=1) and life.state == UNCONFIGURED
    assert node.said == ["configure failed, still unconfigured: no weights in there"] and not node.sent["~/transition_event"]


def test_parameters_are_checked_and_described():
    described = {"share": Parameter(1.0, "of the speed", 0.1, 1.0), "log": Parameter("", "a file"), "on": Parameter(False, "x")}
    assert valid({"share": 1, "use_sim_time": True}, described) == {"share": 1.0, "log": "", "on": False}
    for given, why in (({"share": 2.0}, "share, of the speed: 0.1 to 1.0 is allowed, got 2.0"), ({"log": 3}, "str is needed"),
                       ({"on": 1}, "bool is needed, got 1"), ({"nose": 1}, "no parameter nose: allowed are share, log, on")):
        with pytest.raises(ArgumentError, match=why):
            valid(given, described)
    with pytest.raises(ArgumentError, match="arm: allowed are a, b, got 'c'"):
        known("arm", "c", {"a": 1, "b": 2})
    built = type("Built", (), {"__doc__": "Does this.", "PARAMETERS": described})
    assert "share := 1.0" in usage("node", built) and "(0.1 to 1.0)" in usage("node", built)
