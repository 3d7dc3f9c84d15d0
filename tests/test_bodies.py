"""A mobile base in a test's hands: what speeds an agent's node commands, and when it stands."""

import numpy as np
import pytest
import torch

from agent import checkpoint
from agent.processor import Processor
from agent.spec import ActionSpec, Chunk, Spec
from agent.tokenizer import train_tokenizer
from policies.mmllm import MMLLMPolicy
from ros_nodes import convert
from ros_nodes.agent_node import AgentNode
from ros_nodes.arguments import ArgumentError
from ros_nodes.bodies import ODOMETRY, within
from ros_nodes.interfaces import message
from ros_nodes.lifecycle import ACTIVE
from tests.by_hand import HandNode
from tests.tiny import SENTENCES, awaken, tiny_config

STRING, BOOL = "std_msgs/msg/String", "std_msgs/msg/Bool"
NAMES = ("theta.vel", "x.vel")


@pytest.fixture(scope="module")
def policy():
    """Untrained, of a base with one camera that drives forward and turns."""
    torch.manual_seed(0)
    spec = Spec({"front": (128, 128)}, NAMES, ActionSpec("native", NAMES, (-2.0, -1.0), (2.0, 1.0)), 10.0)
    tokenizer, config = train_tokenizer(SENTENCES), tiny_config()
    model = checkpoint.new_model(config, spec, tokenizer)
    awaken(model)
    return MMLLMPolicy(model, Processor(spec, tokenizer, config["image_size"]))


class Drive:
    """Sends what a base senses, 50 times a second, and says how fast it was told to be: (forward, turning) each time."""

    def __init__(self, policy, **given):
        self.node = HandNode(body="base", **given)
        self.agent, self.rng, self.still = AgentNode(self.node, policy), np.random.default_rng(0), None
        self.node.heard["instruction"](message(STRING)("go to the red cube"))

    def picture(self) -> np.ndarray:
        return self.rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)

    def go(self, seconds: float, blind: bool = False, drives: float = 0.0) -> np.ndarray:
        """blind: without pictures; drives: m/s forward, as it feels."""
        sent = self.node.sent["cmd_vel"]
        first = len(sent)
        for _ in range(round(seconds / 0.02)):
            self.node.run(0.02, 0.02)
            if not blind:
                picture = self.picture() if self.still is None else self.still
                self.node.heard["camera/front/image_raw"](convert.to_image(picture, self.node.time, "front"))
            odometry = convert.header(message(ODOMETRY)(), self.node.time)
            odometry.twist.twist.linear.x = drives
            self.node.heard["odom"](odometry)
        return np.array([(twist.linear.x, twist.angular.z) for twist in sent[first:]])


def always(row):
    return lambda obs: Chunk(np.tile(np.float32(row), (8, 1)), float(obs["timestamp"]), 10.0)


def test_each_state_is_answered_by_a_speed_within_the_limits(policy):
    speeds = Drive(policy, ramp=2.0).go(3.0)
    assert len(speeds) == 150 and np.abs(speeds).max(0)[0] <= 0.5 and np.abs(speeds).max() <= 1.0 and speeds.any()
    assert np.abs(np.diff(speeds, axis=0)).max() <= 0.04 + 1e-9


def test_speeds_are_those_that_were_decided_by_their_names(policy, monkeypatch):
    monkeypatch.setattr(policy, "act", always([-0.3, 0.4]))
    speeds = Drive(policy).go(1.5)
    np.testing.assert_allclose(speeds[-1], (0.4, -0.3), atol=1e-6)


def test_a_chunk_that_runs_out_a_blind_camera_and_a_stop_bring_it_to_a_stand(policy, monkeypatch):
    monkeypatch.setattr(policy, "act", always([0.0, 1.0]))
    drive = Drive(policy)
    assert drive.go(2.0)[-1, 0] == pytest.approx(0.5)
    blind = drive.go(1.0, blind=True)
    assert blind[-1, 0] == 0.0 and np.diff(blind[:, 0]).min() >= -0.02 - 1e-9
    assert drive.go(2.0)[-1, 0] == pytest.approx(0.5)
    drive.node.heard["emergency_stop"](message(BOOL)(True))
    stopping = drive.go(2.0)
    assert len(stopping) < 40 and stopping[-1, 0] == 0.0  # then it is silent
    slow = Drive(policy, period=2.0)
    speeds = slow.go(2.1)[:, 0]
    assert speeds[38] == pytest.approx(0.5) and speeds[70] == 0.0  # the chunk was of 0.8 s


@pytest.mark.parametrize("gone", ["emergency", "cleanup", "odometry", "signal"])
def test_a_base_comes_to_a_stand_whether_or_not_its_state_comes(policy, monkeypatch, gone):
    monkeypatch.setattr(policy, "act", always([0.0, 1.0]))
    drive = Drive(policy)
    assert drive.go(2.0)[-1, 0] == pytest.approx(0.5)
    if gone == "emergency":
        drive.node.heard["emergency_stop"](message(BOOL)(True))
    elif gone == "cleanup":
        assert drive.agent.life.change("deactivate") and drive.agent.life.change("cleanup")
    elif gone == "signal":
        drive.agent.wind_down()
    first = len(drive.node.sent["cmd_vel"])
    drive.node.run(1.5, 0.02)
    speeds = np.array([twist.linear.x for twist in drive.node.sent["cmd_vel"][first:]])
    first = 0.1 if gone == "odometry" else 0.02  # s since the last command, at most
    assert speeds[-1] == 0.0 and speeds[0] >= 0.5 - first - 1e-9 and np.diff(speeds).min() >= -0.02 - 1e-9
    assert drive.node.running == (gone != "signal")


def test_a_base_is_no_faster_aslant(policy):
    aslant = within(np.array([1.0, -1.0, 2.0]), 0.5, 1.0)
    assert np.hypot(*aslant[:2]) == pytest.approx(0.5) and aslant[0] == -aslant[1] and aslant[2] == 1.0
    np.testing.assert_array_equal(within(np.array([0.1, 0.2, -0.3]), 0.5, 1.0), [0.1, 0.2, -0.3])


def test_an_emergency_stop_of_a_base_latches_until_it_is_released(policy, monkeypatch):
    monkeypatch.setattr(policy, "act", always((0.0, 0.4)))
    drive = Drive(policy, ramp=10.0)
    assert drive.go(1.0)[-1, 0] > 0.2
    drive.node.heard["emergency_stop"](message(BOOL)(True))
    drive.node.heard["instruction"](message(STRING)("go to the blue cube"))
    drive.go(1.0)
    assert not drive.node.sent["cmd_vel"][-1].linear.x and "refused" in drive.node.said[-1]
    drive.node.heard["~/release"](message("std_msgs/msg/Empty")())
    assert not drive.go(0.5).any()  # what was said before counts no more
    drive.node.heard["instruction"](message(STRING)("go to the blue cube"))
    assert drive.go(1.0)[-1, 0] > 0.2


def test_a_camera_that_is_frozen_while_the_base_drives_brings_it_to_a_stand(policy, monkeypatch):
    monkeypatch.setattr(policy, "act", always([0.0, 1.0]))
    drive = Drive(policy)
    assert drive.go(1.0, drives=0.4)[-1, 0] == pytest.approx(0.5)
    drive.still = drive.picture()
    assert drive.go(1.0, drives=0.0)[-1, 0] == pytest.approx(0.5)  # it may see the same where it stands
    assert drive.go(1.0, drives=0.4)[-1, 0] == 0.0
    [status] = drive.node.sent["/diagnostics"][-1].status
    assert status.level == convert.WARN and "front: frozen" in status.message


def test_speeds_that_are_not_finite_are_passed_over_and_a_stamp_goes_with_the_speed_where_asked(policy):
    drive = Drive(policy, stamped=True, base="base_link")
    odometry = convert.header(message(ODOMETRY)(), 100.0)
    odometry.twist.twist.linear.x = float("nan")
    drive.node.heard["odom"](odometry)
    assert not drive.node.sent["cmd_vel"] and "finite" in drive.node.said[-1]
    drive.node.heard["odom"](convert.header(message(ODOMETRY)(), 100.0))
    [told] = drive.node.sent["cmd_vel"]
    assert told.header.frame_id == "base_link" and convert.seconds(told.header.stamp) == 100.0


def test_weights_of_something_else_are_not_taken(policy):
    node = HandNode(body="base", velocities=["x.vel", "y.vel", ""])
    agent = AgentNode(node, policy)
    assert agent.life.state != ACTIVE and not node.heard
    assert any("a base senses and moves x.vel, y.vel, ; these weights theta.vel, x.vel" in said for said in node.said)


def test_weights_of_a_base_are_none_of_an_arm(policy):
    node = HandNode()
    assert AgentNode(node, policy).life.state != ACTIVE and not node.heard
    assert any("an arm senses joint_1" in said and "these weights sense theta.vel, x.vel and give" in said for said in node.said)


@pytest.mark.parametrize("given, why", [({"velocities": ["x.vel"]}, "3 names are needed"),
                                        ({"speed": 100.0}, "0.01 to 10.0 is allowed"), ({"body": "legs"}, "arm, base")])
def test_what_cannot_be_is_named(policy, given, why):
    with pytest.raises(ArgumentError, match=why):
        AgentNode(HandNode(**{"body": "base"} | given), policy)
