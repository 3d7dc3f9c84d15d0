"""The agent and the supervisor on a real robot, whose topics and limits a file of parameters names.

    ros2 launch soma_ros robot.launch.py params:=my_robot.yaml front:=/realsense/color/image_raw microphone:=true
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

TOPICS = {"front": ("camera/front/image_raw", "the camera that sees the table"),
          "wrist": ("camera/wrist/image_raw", "the camera at the hand"),
          "joint_states": ("joint_states", "the robot's joints"),
          "gripper_states": ("gripper_states", "the gripper's joints, where they are apart"),
          "joint_commands": ("joint_commands", "where the supervisor's commands go")}
ACTIONS = {"arm": ("arm_controller/follow_joint_trajectory", "the action that moves the arm, with controller: action"),
           "gripper": ("gripper_controller/gripper_cmd", "the action that moves the gripper, with controller: action")}


def generate_launch_description() -> LaunchDescription:
    example = Path(get_package_share_directory("soma_ros")) / "config" / "fr3.yaml"
    declared = [DeclareLaunchArgument("params", default_value=str(example), description="parameters of agent and safety"),
                DeclareLaunchArgument("namespace", default_value="", description="of all nodes and topics"),
                DeclareLaunchArgument("microphone", default_value="false", description="start audio_node")]
    declared += [DeclareLaunchArgument(name, default_value=topic, description=about)
                 for name, (topic, about) in (TOPICS | ACTIONS).items()]
    remapped = [(topic, LaunchConfiguration(name)) for name, (topic, _) in TOPICS.items()]
    remapped += [(f"{TOPICS[name][0]}/compressed", [LaunchConfiguration(name), "/compressed"]) for name in ("front", "wrist")]
    remapped += [(f"{action}/_action/send_goal", [LaunchConfiguration(name), "/_action/send_goal"])
                 for name, (action, _) in ACTIONS.items()]

    def node(name: str, **more) -> Node:
        return Node(package="soma_ros", executable=f"{name}_node", name=name, namespace=LaunchConfiguration("namespace"),
                    parameters=[LaunchConfiguration("params")], remappings=remapped, output="screen", **more)

    microphone = IfCondition(LaunchConfiguration("microphone"))
    return LaunchDescription([*declared, node("safety"), node("agent"), node("audio", condition=microphone)])
