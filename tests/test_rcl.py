"""The nodes on a real rclpy: alone, together with nodes that speak its wire protocol only, and under ROS's own tools."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2 is sourced")
pytest.importorskip("soma_msgs", reason="soma_msgs is not built: colcon build --base-paths ros_nodes")
pytest.importorskip("cyclonedds", reason="cyclonedds is not installed: pip install 'soma-agent[ros]'")

from envs.arm import PANDA, JointState, JointTrajectory  # noqa: E402
from ros_nodes import convert  # noqa: E402
from ros_nodes.convert import TABLETOP  # noqa: E402
from ros_nodes.dds import Node  # noqa: E402
from ros_nodes.interfaces import described, message, type_hash  # noqa: E402

STRING = "std_msgs/msg/String"


@pytest.fixture
def start(monkeypatch):
    """Starts processes in a domain of this test's own; all are gone at its end."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + time.time_ns() // 1000 % 99))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started = []

    def run(*words: str, **env: str) -> subprocess.Popen:
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        env=os.environ | env, start_new_session=True))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(["ros2", "daemon", "stop"], capture_output=True)


def node(start, name: str, transport: str = "rclpy", **parameters) -> subprocess.Popen:
    words = [w for key, value in parameters.items() for w in ("-p", f"{key}:={value}")]
    return start(sys.executable, "-m", f"ros_nodes.{name}_node", "--ros-args", *words, SOMA_TRANSPORT=transport)


def ros2(*words: str, timeout: float = 30.0) -> str:
    done = subprocess.run(["ros2", *words], capture_output=True, text=True, timeout=timeout)
    return done.stdout + done.stderr


def until(words: tuple[str, ...], wanted: str, seconds: float = 30.0) -> str:
    """What `ros2 WORDS` says, once it says what is wanted; or in the end."""
    end = time.time() + seconds
    while wanted not in (said := ros2(*words)) and time.time() < end:
        time.sleep(0.5)
    return said


def samples() -> dict[str, object]:
    rng = np.random.default_rng(0)
    state = JointState(12.5, rng.normal(size=7), 0.04)
    wish = JointTrajectory(state, 12.5 + np.arange(1, 9) / 10, rng.normal(size=(8, 7)), rng.random(8))
    return {convert.IMAGE: convert.to_image(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8), 3.25, "front"),
            convert.JOINTS: convert.to_joints(state, TABLETOP), convert.TRAJECTORY: convert.to_trajectory(wish, TABLETOP),
            STRING: message(STRING)("naïve ☃ words")}


def test_what_a_node_of_rclpy_sends_back_is_what_was_sent(start):
    start(sys.executable, str(Path(__file__).parent / "echo_node.py"))
    here, came, sent = Node("here"), {}, samples()
    writers = {}
    for kind in sent:
        short = kind.rpartition("/")[2]
        writers[kind] = here.publisher(kind, short)
        here.subscribe(kind, f"echo/{short}", lambda value, kind=kind: came.__setitem__(kind, value))
    here.timer(0.2, lambda: [write(sent[kind]) for kind, write in writers.items()])
    end = time.time() + 20
    here.spin(lambda: len(came) == len(sent) or time.time() > end)
    assert came == sent


def test_our_own_interfaces_have_the_hashes_that_rosidl_gives_them():
    from ament_index_python.packages import get_package_share_directory

    share = Path(get_package_share_directory("soma_msgs"))
    if os.environ.get("ROS_DISTRO") == "humble":
        pytest.skip("Humble has no type hashes")
    told = [h for file in share.glob("*/*.json") for h in json.loads(file.read_text())["type_hashes"]]
    ours = {name: type_hash(name) for name in described() if name.startswith("soma_msgs/")}
    theirs = {h["type_name"]: h["hash_string"] for h in told if h["type_name"] in ours}
    assert len(theirs) >= 8 and theirs == {name: ours[name] for name in theirs}


@pytest.mark.parametrize("agent", ["rclpy", "dds"])
def test_a_task_is_completed_on_rclpy_and_with_an_agent_that_has_no_ros(start, agent):
    safety, mind = node(start, "safety", lockstep="true"), node(start, "agent", agent, lockstep="true")
    sim = node(start, "sim", lockstep="true", task="press_button", episodes=3)
    said, _ = sim.communicate(timeout=120)
    assert sim.returncode == 0 and said.count(": success") >= 2
    for process in (safety, mind):
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=10)
        assert process.returncode == 0, said


@pytest.mark.parametrize("agent", ["rclpy", "dds"])
def test_the_agent_under_ros_tools(start, agent):
    """Node list, life cycle, the action with its result and its cancelling; on rclpy the described parameters, too."""
    node(start, "agent", agent, settled=1.0)
    assert "/agent" in until(("node", "list"), "/agent")
    assert "active [3]" in until(("lifecycle", "get", "/agent"), "active [3]")
    assert "successful" in ros2("lifecycle", "set", "/agent", "deactivate")
    assert "inactive" in ros2("lifecycle", "get", "/agent")
    assert "successful" in ros2("lifecycle", "set", "/agent", "activate")
    assert "soma_msgs/action/ExecuteTask" in until(("action", "list", "-t"), "/execute_task")
    goal = ("action", "send_goal", "/execute_task", "soma_msgs/action/ExecuteTask")
    said = ros2(*goal, "{instruction: pick up the red cube, timeout: 1.5}", "--feedback")
    assert "state: waiting" in said and "not done within 1.5 s" in said and "ABORTED" in said
    assert "rejected" in ros2(*goal, "{instruction: '', timeout: 1.0}")
    client = start(sys.executable, str(Path(__file__).parent / "cancel_client.py"))
    assert "cancelling 1 status 5 cancelled" in client.communicate(timeout=30)[0]
    if agent == "rclpy":
        assert "s from one decision to the next" in ros2("param", "describe", "/agent", "period")
        assert "read-only" in ros2("param", "set", "/agent", "period", "0.5")


def test_a_wrong_parameter_is_named_and_ends_the_node(start):
    for words, why in (({"patience": 99.0}, "patience"), ({"arm": "ur5"}, "panda, fr3")):
        wrong = node(start, "safety", **words)
        assert why in wrong.communicate(timeout=20)[0] and wrong.returncode == 2


def driver(here: Node, also=lambda: None) -> list:
    """A robot that is where it was commanded, and someone who wants it to move; `also` is called each time. The commands."""
    commands, home = [], np.array(PANDA.home)
    joints, wishes = here.publisher(convert.JOINTS, "joint_states"), here.publisher(convert.TRAJECTORY, "agent/trajectory")
    here.subscribe(convert.TRAJECTORY, "joint_commands", lambda c: commands.append(c.points[0]))

    def drive() -> None:
        now, q = here.now(), np.array(commands[-1].positions[:7]) if commands else home
        joints(convert.to_joints(JointState(now, q, 0.08), TABLETOP))
        wish = JointTrajectory(JointState(now, q, 0.08), now + np.array([2.0]), (home + 0.5)[None], np.array([0.08]))
        wishes(convert.to_trajectory(wish, TABLETOP))
        also()

    here.timer(0.02, drive)
    return commands


def test_the_supervisor_on_rclpy_follows_a_wire_only_driver_and_stops(start):
    node(start, "safety")
    here, home, begin = Node("driver"), np.array(PANDA.home), time.time()
    button = here.publisher("std_msgs/msg/Bool", "emergency_stop")
    commands = driver(here, lambda: moved() > 0.05 and button(message("std_msgs/msg/Bool")(True)))

    def moved() -> float:
        return float(np.abs(np.array(commands[-1].positions[:7]) - home).max()) if commands else 0.0

    here.spin(lambda: time.time() > begin + 20 or (moved() > 0.05 and not any(commands[-1].velocities)))
    assert 0.05 < moved() < 0.4 and commands[-1].velocities == array("d", 8 * [0.0])


@pytest.mark.parametrize("transport", ["rclpy", "dds"])
def test_the_supervisor_moves_an_arm_and_a_gripper_by_action_servers_of_rclpy(start, transport):
    """A goal that is refused is named once, and the next one is taken."""
    pytest.importorskip("control_msgs", reason="control_msgs is not built")
    server = start(sys.executable, str(Path(__file__).parent / "action_server.py"))
    safety, here, begin = node(start, "safety", transport, controller="action", effort=35.0), Node("driver"), time.time()
    driver(here)
    here.spin(lambda: time.time() > begin + 40 or server.poll() is not None)
    assert server.poll() == 0
    told = "7 joints, speeds at the end [0.0]\ngripper to 0.080 m with 35 N, 1 goals\n"
    assert server.communicate()[0].endswith(told)  # after what DDS may remark on the network
    safety.send_signal(signal.SIGINT)
    said, name = safety.communicate(timeout=10)[0], "arm_controller/follow_joint_trajectory"
    assert said.count(f"{name}: the goal was refused") == said.count(f"{name}: goals are taken") == 1


@pytest.mark.skipif(shutil.which("ros2") is None or "soma_ros" not in ros2("pkg", "list"),
                    reason="soma_ros is not built: colcon build --base-paths ros_nodes")
def test_one_command_launches_all_and_ends_all(start):
    launch = start("ros2", "launch", "soma_ros", "sim.launch.py", "task:=press_button", "episodes:=2", "lockstep:=true")
    said, _ = launch.communicate(timeout=120)
    assert said.count(": success") == 2 and said.count("process has finished cleanly") == 3
    launch = start("ros2", "launch", "soma_ros", "sim.launch.py", "task:=reach")
    assert any("told:" in line for line in launch.stdout)  # all three are up
    launch.send_signal(signal.SIGINT)
    said, _ = launch.communicate(timeout=30)
    assert said.count("process has finished cleanly") == 3
    left = subprocess.run(["pgrep", "-s", str(launch.pid)], capture_output=True, text=True).stdout
    assert not left
