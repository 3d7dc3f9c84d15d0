"""The agent's node on a robot in a test's hands."""

from __future__ import annotations

import numpy as np

from envs.arm import PANDA, JointState
from ros_nodes import convert
from ros_nodes.agent_node import AgentNode
from ros_nodes.convert import TABLETOP
from ros_nodes.interfaces import message
from tests.by_hand import HandNode

STRING, BOOL = "std_msgs/msg/String", "std_msgs/msg/Bool"
RATE = 16000


class Robot:
    """Sends what a robot senses, 50 times a second of the node's time, and says what the agent made of it."""

    def __init__(self, policy, **given):
        self.node = HandNode(**given)
        self.agent, self.step, self.rng = AgentNode(self.node, policy), 0, np.random.default_rng(0)
        self.size = 128, 128
        self.node.heard["instruction"](message(STRING)("pick up the red cube"))

    def sense(self, steps: int, without: str = "", late: float = 0.0, joint: float = 0.0, nan: bool = False) -> list[str]:
        """What came back: "plan", "alive" or "stand: ..." """
        sent = self.node.sent["agent/trajectory"]
        first = len(sent)
        for _ in range(steps):
            self.step += 1
            self.node.time = now = 100.0 + 0.02 * self.step
            self.node.tick()
            for name in ("front", "wrist"):
                if name != without:
                    picture = self.rng.integers(0, 255, (*self.size, 3), dtype=np.uint8)
                    self.node.heard[f"camera/{name}/image_raw"](convert.to_image(picture, now, name))
            if without != "audio":
                self.node.heard["audio"](convert.to_audio(np.zeros((320, 2), np.float32), RATE, now - 0.02 - late))
            q = np.array(PANDA.home) + joint * self.step
            q[3] = np.nan if nan else q[3]
            self.node.heard["joint_states"](convert.to_joints(JointState(now, q, 0.08), TABLETOP))
        return ["plan" if t.points else f"stand: {t.header.frame_id}" if t.joint_names else "alive" for t in sent[first:]]
