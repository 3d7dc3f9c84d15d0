"""A simulated robot, the agent and the supervisor between them.

    ros2 launch soma_ros sim.launch.py task:=place_in instruct:=voice episodes:=3
"""

from typing import List  # launch knows no other lists

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

# name: (default, type, description, the nodes that take it)
ARGUMENTS = {
    "task": ("pick_up", str, "one of the tabletop's tasks", ("sim",)),
    "instruct": ("text", str, "how the instruction comes: text, voice or both", ("sim",)),
    "split": ("new_scenes", str, "of scenes, sentences and voices", ("sim",)),
    "seed": ("1000", int, "of the first episode", ("sim",)),
    "episodes": ("0", int, "after which all ends; 0: when it is stopped", ("sim",)),
    "lockstep": ("false", bool, "as fast as it goes, each control period waiting for its command", ("sim", "agent", "safety")),
    "use_sim_time": ("false", bool, "agent and supervisor go by /clock, as smoothly as its rate is", ("agent", "safety")),
    "weights": ("pocket", str, "a shipped name or a checkpoint's folder", ("agent",)),
    "device": ("cpu", str, "of PyTorch, that decides: cpu, cuda, or cuda:0 and so on", ("agent",)),
    "talk": ("false", bool, "the agent says aloud what it understood; its microphones hear that, too", ("agent",)),
    "threads": ("1", int, "of PyTorch", ("agent",)),
    "workspace": ("[0.27, -0.33, 0.0, 0.69, 0.33, 0.46]", List[float], "least x, y, z, then most, of the tool, m", ("safety",)),
    "model": ("tabletop", str, "so that it does not touch itself or the table, either; '': unchecked", ("safety",)),
    "log": ("", str, "file that the supervisor's interventions are added to", ("safety",)),
}


def taken(node: str) -> dict:
    return {name: ParameterValue(LaunchConfiguration(name), value_type=kind)
            for name, (_, kind, _, nodes) in ARGUMENTS.items() if node in nodes}


def generate_launch_description() -> LaunchDescription:
    declared = [DeclareLaunchArgument(name, default_value=default, description=about)
                for name, (default, _, about, _) in ARGUMENTS.items()]
    nodes = [Node(package="soma_ros", executable=f"{name}_node", name=name, parameters=[taken(name)], output="screen",
                  on_exit=Shutdown(reason=f"{name} ended")) for name in ("safety", "agent", "sim")]
    return LaunchDescription([*declared, *nodes])
