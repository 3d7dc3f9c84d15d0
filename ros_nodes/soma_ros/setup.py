"""For colcon: the launch files, and the nodes of the Python distribution soma-agent as executables of `ros2 run`."""

from glob import glob

from setuptools import setup

NAME = "soma_ros"
NODES = ("agent_node", "audio_node", "safety_node", "sim_node")

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", glob("launch/*.launch.py")),
        (f"share/{NAME}/config", glob("config/*")),
    ],
    install_requires=["setuptools"],
    maintainer="The Soma authors",
    maintainer_email="soma-agent@users.noreply.github.com",
    description="Launches the Soma agent on ROS 2",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"{node} = ros_nodes.{node}:main" for node in NODES]},
)
