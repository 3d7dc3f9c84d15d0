"""Ordinary action servers of rclpy for tests/test_rcl.py, of an arm and a gripper: refuse the arm's first goal, take others,
and end after a few, saying what came."""

import rclpy
from control_msgs.action import FollowJointTrajectory, GripperCommand
from rclpy.action import ActionServer, GoalResponse
from rclpy.node import Node

rclpy.init()
node, goals = Node("controllers"), {"arm": [], "gripper": []}


def serve(name, kind, action):
    def asked(goal):
        goals[name].append(goal)
        return GoalResponse.REJECT if name == "arm" and len(goals[name]) == 1 else GoalResponse.ACCEPT

    def execute(handle):
        handle.succeed()
        return kind.Result()

    return ActionServer(node, kind, action, execute, goal_callback=asked)


servers = [serve("arm", FollowJointTrajectory, "arm_controller/follow_joint_trajectory"),
           serve("gripper", GripperCommand, "gripper_controller/gripper_cmd")]
while len(goals["arm"]) < 8 or not goals["gripper"]:
    rclpy.spin_once(node)
way, command = goals["arm"][-1].trajectory, goals["gripper"][0].command
print(len(way.joint_names), "joints, speeds at the end", sorted(set(way.points[-1].velocities)))
print(f"gripper to {command.position:.3f} m with {command.max_effort:g} N, {len(goals['gripper'])} goals")
