"""robot.launch.py on a Franka Research 3 that is ros2_control's mock hardware, with the same controllers; it needs the packages
ros2_control, ros2_controllers and robot_state_publisher. It moves once something gives it pictures and sound, and a release:

    ros2 launch soma_ros fr3_mock.launch.py front:=/TOPIC wrist:=/TOPIC microphone:=true
    ros2 topic pub --once /safety/release std_msgs/msg/Empty
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONTROLLERS = ("joint_state_broadcaster", "arm_controller", "gripper_controller")


def generate_launch_description() -> LaunchDescription:
    share = Path(get_package_share_directory("soma_ros"))
    robot = {"robot_description": ParameterValue((share / "config" / "fr3_mock.urdf").read_text(), value_type=str)}
    controllers = str(share / "config" / "fr3_controllers.yaml")
    return LaunchDescription([
        Node(package="robot_state_publisher", executable="robot_state_publisher", parameters=[robot]),
        Node(package="controller_manager", executable="ros2_control_node", parameters=[robot, controllers], output="screen",
             remappings=[("~/robot_description", "/robot_description")]),
        Node(package="controller_manager", executable="spawner", arguments=list(CONTROLLERS), output="screen"),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(str(share / "launch" / "robot.launch.py")),
                                 launch_arguments={"controller": "action"}.items()),
    ])
