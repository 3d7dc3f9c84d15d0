"""The agent and the supervisor on a real robot, whose joints, topics and limits a file of parameters names, and arguments here.

    ros2 launch soma_ros robot.launch.py params:=my_robot.yaml front:=/realsense/color/image_raw share:=0.3 microphone:=true
"""

from pathlib import Path
from typing import List  # launch knows no other lists

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

# name: (type, description, the nodes that take it); what is not given is as the file of parameters says
PARAMETERS = {
    "weights": (str, "a shipped name or a checkpoint's folder", ("agent",)),
    "device": (str, "of PyTorch, that decides: cpu, cuda, or cuda:0 and so on", ("agent",)),
    "cameras": (List[str], "[NAME=TOPIC] of cameras, where they are not front and wrist", ("agent",)),
    "controller": (str, "of ros2_control that drives the arm: none, positions, trajectory or action", ("safety",)),
    "share": (float, "of the arm's speeds and accelerations", ("safety",)),
    "margin": (float, "rad off the ends of the joints", ("safety",)),
    "workspace": (List[float], "[least x, y, z, then most] of the tool, m", ("safety",)),
    "force": (float, "N of contact that stop it, measured on wrench", ("safety",)),
    "patience": (float, "s without a sign of life", ("safety",)),
    "model": (str, "MJCF file of the robot, against touching itself", ("safety",)),
    "log": (str, "file of the supervisor's events, which remembers an emergency stop", ("safety",)),
    "use_sim_time": (bool, "take the time from /clock", ("safety", "agent", "audio")),
}
TOPICS = {"front": ("camera/front/image_raw", "the camera that sees the table"),
          "wrist": ("camera/wrist/image_raw", "the camera at the hand"),
          "joint_states": ("joint_states", "the robot's joints"),
          "gripper_states": ("gripper_states", "the gripper's joints, where they are apart"),
          "wrench": ("wrench", "the force at the tool, with force"),
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
    declared += [DeclareLaunchArgument(name, default_value="", description=about) for name, (_, about, _) in PARAMETERS.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=nodes)])


def nodes(context) -> list:
    """The nodes, with the parameters that were asked for."""
    asked = [name for name in PARAMETERS if LaunchConfiguration(name).perform(context)]
    remapped = [(topic, LaunchConfiguration(name)) for name, (topic, _) in TOPICS.items()]
    remapped += [(f"{TOPICS[name][0]}/compressed", [LaunchConfiguration(name), "/compressed"]) for name in ("front", "wrist")]
    remapped += [(f"{action}/_action/send_goal", [LaunchConfiguration(name), "/_action/send_goal"])
                 for name, (action, _) in ACTIONS.items()]

    def node(name: str, **more) -> Node:
        given = {parameter: ParameterValue(LaunchConfiguration(parameter), value_type=kind)
                 for parameter, (kind, _, takers) in PARAMETERS.items() if parameter in asked and name in takers}
        return Node(package="soma_ros", executable=f"{name}_node", name=name, namespace=LaunchConfiguration("namespace"),
                    parameters=[LaunchConfiguration("params"), *([given] if given else [])], remappings=remapped, output="screen",
                    **more)

    return [node("safety"), node("agent"), node("audio", condition=IfCondition(LaunchConfiguration("microphone")))]
