"""The ROS package: its files agree with each other, the nodes and the arm, and where ROS is its launch files are read."""

import re
import xml.etree.ElementTree as ET
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from envs.arm import FR3, fk
from envs.tabletop.scene import WORKSPACE
from policies.chunking import ROOM
from ros_nodes.agent_node import AgentNode
from ros_nodes.arguments import USE_SIM_TIME, of_files, valid
from ros_nodes.audio_node import AudioNode
from ros_nodes.safety_node import SafetyNode
from ros_nodes.sim_node import SimNode

ROS = Path(__file__).parent.parent / "ros_nodes"
PACKAGE = ROS / "soma_ros"
NODES = {"agent": AgentNode, "safety": SafetyNode, "audio": AudioNode, "sim": SimNode}
URDF = ET.parse(PACKAGE / "config" / "fr3_mock.urdf").getroot()


def numbers(text: str) -> np.ndarray:
    return np.array([float(x) for x in text.split()])


def asked(node: str) -> dict:
    """The parameters of a node by fr3.yaml, checked."""
    shared, own = of_files([str(PACKAGE / "config" / "fr3.yaml")], f"/{node}")
    described = NODES[node].PARAMETERS
    return valid({name: value for name, value in shared.items() if name in described} | own, described)


def test_packages_whose_interfaces_the_nodes_speak_are_named():
    sources = [path.read_text() for path in ROS.glob("*.py") if path.name not in ("dds.py", "interfaces.py")]
    used = {package for text in sources for package in re.findall(r'"(\w+)/(?:msg|srv|action)/', text)}
    named = {element.text for element in ET.parse(PACKAGE / "package.xml").getroot().iter("exec_depend")}
    assert len(used) > 10 and used <= named


@pytest.mark.parametrize("node", ["agent", "safety", "audio"])
def test_the_example_of_a_real_robot_is_one_for_each_node(node):
    asked(node)


def test_controllers_and_the_mock_robot_have_the_joints_of_the_example():
    names = asked("safety")["joints"]
    controllers = yaml.safe_load((PACKAGE / "config" / "fr3_controllers.yaml").read_text())
    assert controllers["arm_controller"]["ros__parameters"]["joints"] == names[:7]
    assert controllers["gripper_controller"]["ros__parameters"]["joint"] == names[7]
    assert [joint.get("name") for joint in URDF.find("ros2_control").findall("joint")] == names
    assert {joint.get("name") for joint in URDF.findall("joint")} > set(names)


def test_the_mock_robot_is_the_arm():
    names, limits = asked("safety")["joints"], {joint.get("name"): joint.find("limit") for joint in URDF.findall("joint")}
    for key, theirs in (("lower", FR3.q_min), ("upper", FR3.q_max), ("velocity", FR3.dq_max)):
        np.testing.assert_allclose([float(limits[name].get(key)) for name in names[:7]], theirs)
    assert float(limits[names[7]].get("upper")) * asked("safety")["grip"] == FR3.max_opening
    for q in np.random.default_rng(0).uniform(FR3.q_min, FR3.q_max, (20, 7)):
        pose = np.eye(4)
        for joint, angle in zip(URDF.findall("joint"), (*q, 0.0)):
            origin, way = joint.find("origin"), np.eye(4)
            way[:3, 3] = numbers(origin.get("xyz"))
            turn = Rotation.from_euler("xyz", numbers(origin.get("rpy"))) * Rotation.from_rotvec([0, 0, angle])
            way[:3, :3] = turn.as_matrix()
            pose = pose @ way
        np.testing.assert_allclose(pose, fk(FR3, q), atol=1e-8)


def test_the_mock_robot_begins_where_the_example_may_be():
    start = {joint.get("name"): float(joint.find("state_interface/param").text)
             for joint in URDF.find("ros2_control").findall("joint")}
    state = asked("safety")
    q, low, high = np.array([start[name] for name in state["joints"][:7]]), state["workspace"][:3], state["workspace"][3:]
    assert (low <= fk(FR3, q)[:3, 3]).all() and (fk(FR3, q)[:3, 3] <= high).all()
    assert (q > FR3.q_min + state["margin"]).all() and (q < FR3.q_max - state["margin"]).all()


def test_the_workspace_of_the_simulated_robot_is_that_of_an_evaluation():
    told = re.search(r'"workspace": \("(\[.*?\])"', (PACKAGE / "launch" / "sim.launch.py").read_text()).group(1)
    np.testing.assert_allclose(np.reshape(yaml.safe_load(told), (2, 3)), np.add(WORKSPACE, [[-ROOM], [ROOM]]))


# ---- where ROS is


def launch_file(name: str):
    pytest.importorskip("launch_ros", reason="no ROS 2 is sourced")
    spec = spec_from_file_location(name, PACKAGE / "launch" / f"{name}.launch.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name, table", [("sim", "ARGUMENTS"), ("robot", "PARAMETERS")])
def test_arguments_are_parameters_of_the_nodes_that_take_them(name, table):
    for parameter, (*_, kind, _, nodes) in getattr(launch_file(name), table).items():
        for node in nodes:
            wanted = (NODES[node].PARAMETERS | {"use_sim_time": USE_SIM_TIME})[parameter].default
            assert isinstance(wanted, list if "List" in str(kind) else kind)


def test_a_real_robot_is_launched_with_what_is_asked_for(monkeypatch):
    launch, module = pytest.importorskip("launch", reason="no ROS 2 is sourced"), launch_file("robot")
    monkeypatch.setattr(module, "get_package_share_directory", lambda _: str(PACKAGE))
    context = launch.LaunchContext()
    given = {"share": "0.25", "workspace": "[0.3, -0.2, 0.1, 0.6, 0.2, 0.5]", "cameras": "[side=/side/image_raw]",
             "device": "cuda", "log": "events.jsonl", "params": str(PACKAGE / "config" / "fr3.yaml")}
    context.launch_configurations.update(given)
    for entity in module.generate_launch_description().entities[:-1]:
        entity.execute(context)
    commands = {}
    for node in module.nodes(context):
        node._perform_substitutions(context)
        files = [file for file, _ in node._Node__expanded_parameter_arguments]
        commands[node.node_name] = of_files(files, node.node_name)[1]
    safety, agent = commands["/safety"], commands["/agent"]
    assert safety["log"] == "events.jsonl" and safety["begin_stopped"] is True
    assert safety["share"] == 0.25 and safety["workspace"] == yaml.safe_load(given["workspace"]) and "force" not in safety
    assert agent["cameras"] == ["side=/side/image_raw"] and agent["device"] == "cuda" and agent["weights"] == "pocket"


def test_the_mock_robot_is_launched(monkeypatch):
    module = launch_file("fr3_mock")
    monkeypatch.setattr(module, "get_package_share_directory", lambda _: str(PACKAGE))
    entities = module.generate_launch_description().entities
    names = [getattr(entity, "node_executable", type(entity).__name__) for entity in entities]
    assert names == ["robot_state_publisher", "ros2_control_node", "spawner", "IncludeLaunchDescription"]
