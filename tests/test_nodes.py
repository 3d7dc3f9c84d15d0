"""The nodes on the wire, without ROS: messages and arrays, and real processes that talk to each other."""

import json
import os
import signal
import subprocess
import sys
import time
from array import array

import cv2
import numpy as np
import pytest

from envs.arm import PANDA, JointState, JointTrajectory
from ros_nodes import convert
from ros_nodes.convert import TABLETOP, ConvertError, Joints
from ros_nodes.interfaces import message


# ---- messages and arrays


@pytest.mark.parametrize("encoding, code", [("rgb8", None), ("bgr8", cv2.COLOR_RGB2BGR), ("rgba8", cv2.COLOR_RGB2RGBA),
                                            ("bgra8", cv2.COLOR_RGB2BGRA)])
def test_pictures_of_each_encoding_come_out_as_rgb(encoding, code):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (5, 7, 3), dtype=np.uint8)
    image = convert.to_image(picture, 1.25, "front")
    assert (image.header.stamp.sec, image.header.stamp.nanosec) == (1, 250_000_000)
    stored = picture if code is None else cv2.cvtColor(picture, code)
    padded = np.concatenate([stored.reshape(5, -1), np.zeros((5, 4), np.uint8)], 1)
    image.encoding, image.step, image.data = encoding, padded.shape[1], padded.tobytes()
    np.testing.assert_array_equal(convert.from_image(image), picture)


def test_what_is_no_picture_is_named():
    image = convert.to_image(np.zeros((4, 4, 3), np.uint8), 0.0, "front")
    image.data = image.data[:-1]
    with pytest.raises(ConvertError, match="4x4 rgb8: 47 bytes"):
        convert.from_image(image)
    image.encoding = "yuv422"
    with pytest.raises(ConvertError, match="'yuv422': allowed are rgb8"):
        convert.from_image(image)
    with pytest.raises(ConvertError, match="3 bytes that are no picture"):
        convert.from_compressed(message(convert.COMPRESSED)(format="jpeg", data=b"abc"))
    jpeg = cv2.imencode(".png", np.full((3, 3, 3), (0, 0, 250), np.uint8))[1].tobytes()
    assert convert.from_compressed(message(convert.COMPRESSED)(data=jpeg))[0, 0].tolist() == [250, 0, 0]


def test_sound_keeps_its_samples_and_names_another_rate():
    samples = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    audio = convert.to_audio(samples, 16000, 0.5)
    np.testing.assert_allclose(convert.from_audio(audio, 16000, 2), samples, atol=2e-5)
    with pytest.raises(ConvertError, match="2 channels at 16000 Hz.*1 at 8000 Hz"):
        convert.from_audio(audio, 8000, 1)


def test_joints_come_in_any_order():
    state = JointState(2.0, np.arange(7) / 10, 0.04)
    sent = convert.to_joints(state, TABLETOP)
    sent.name, sent.position = sent.name[::-1], array("d", sent.position[::-1])
    back = convert.from_joints(sent, TABLETOP)
    assert back.stamp == 2.0 and back.opening == 0.04
    np.testing.assert_array_equal(back.position, state.position)
    sent.name[0] = "nose"
    with pytest.raises(ConvertError, match="without gripper; it has nose"):
        convert.from_joints(sent, TABLETOP)


def trajectory(stamp=1.0, points=3) -> JointTrajectory:
    rng = np.random.default_rng(1)
    start = JointState(stamp, np.array(PANDA.home), 0.08)
    return JointTrajectory(start, stamp + np.arange(1, points + 1) / 10, rng.normal(size=(points, 7)), rng.random(points))


def test_a_simulation_that_begins_anew_does_not_stop_the_timers_of_a_node_without_ros(monkeypatch):
    dds = pytest.importorskip("ros_nodes.dds", reason="cyclonedds is not installed")
    monkeypatch.setenv("ROS_DOMAIN_ID", "93")
    node, rang = dds.Node("timed", parameters={"use_sim_time": True}), []
    clock = message("rosgraph_msgs/msg/Clock")()
    node.timer(0.5, lambda: rang.append(node.now()))
    for now in (1000.0, 1000.4, 1000.6, 0.0, 0.1, 0.3, 0.5, 1.1):
        convert.set_time(clock.clock, now)
        node._tick(clock)
        node.spin_once(0.0)
    assert rang == pytest.approx([1000.0, 1000.6, 0.5, 1.1])
    node.give_time()  # as the node does that sends /clock
    node._tick(clock)
    assert abs(node.now() - time.time()) < 1.0


def test_a_trajectory_whose_points_are_all_ahead_begins_at_the_first():
    """As others send them: without a point for where the robot is."""
    sent = convert.to_trajectory(trajectory(), TABLETOP)
    del sent.points[0]
    for points in (3, 1):
        sent.points = sent.points[:points]
        back = convert.from_trajectory(sent, TABLETOP)
        np.testing.assert_allclose(back.times, trajectory().times[:points], atol=1e-9)
        np.testing.assert_array_equal(back.positions, trajectory().positions[:points])
        np.testing.assert_array_equal(back.start.position, back.positions[0])


def test_a_trajectory_comes_back_as_it_was():
    sent = convert.to_trajectory(trajectory(), TABLETOP)
    back = convert.from_trajectory(sent, TABLETOP)
    for name in ("times", "positions", "openings"):
        np.testing.assert_allclose(getattr(back, name), getattr(trajectory(), name), atol=1e-9)
    np.testing.assert_array_equal(back.start.position, trajectory().start.position)
    assert convert.from_trajectory(message(convert.TRAJECTORY)(), TABLETOP) is None
    sent.points[1].positions.pop()
    with pytest.raises(ConvertError, match=r"4 points with \[7, 8\] positions"):
        convert.from_trajectory(sent, TABLETOP)
    with pytest.raises(ConvertError, match="elbow"):
        convert.from_trajectory(convert.to_trajectory(trajectory(), Joints((*TABLETOP.names[:-1], "elbow"))), TABLETOP)


def test_a_command_says_where_to_be_and_when():
    sent = convert.to_trajectory(trajectory(stamp=3.0, points=1), TABLETOP)
    command = convert.from_command(sent, TABLETOP)
    assert command.stamp == pytest.approx(3.1) and command.opening == sent.points[-1].positions[7]
    np.testing.assert_array_equal(command.position, sent.points[-1].positions[:7])
    sent.points[-1].positions[2] = float("nan")
    for broken, why in ((sent, "finite"), (message(convert.TRAJECTORY)(), "0 points for no joints"),
                        (message(convert.TRAJECTORY)(joint_names=["a"], points=sent.points), "for a:")):
        with pytest.raises(ConvertError, match=why):
            convert.from_command(broken, TABLETOP)


def test_joint_states_that_come_in_parts_are_put_together():
    """As old as the oldest joint of the arm; a gripper may be slow, and is not trusted for ever."""
    whole, gathered = convert.to_joints(JointState(1.0, np.arange(7) / 10, 0.04), TABLETOP), convert.Gathered(TABLETOP)
    part = message(convert.JOINTS)

    def some(stamp, names):
        known = dict(zip(whole.name, whole.position))
        return convert.header(part(name=names, position=array("d", [known[n] for n in names])), stamp)

    arm, gripper = list(TABLETOP.names[:7]), [TABLETOP.names[7]]
    for names, why in ((arm, "it has joint_1, .*joint_7$"), ([], "it has joint_1, .*joint_7$")):
        with pytest.raises(ConvertError, match=f"without gripper; {why}"):
            gathered.take(some(1.0, names))
    assert gathered.take(some(1.1, gripper)).stamp == 1.0
    assert gathered.take(some(1.2, [])) is None  # of somebody else
    state = gathered.take(some(1.5, arm[::-1]))
    assert state.stamp == 1.5 and state.opening == 0.04
    np.testing.assert_array_equal(state.position, np.arange(7) / 10)
    with pytest.raises(ConvertError, match="gripper is 1.4 s older"):
        gathered.take(some(2.5, arm))
    whole.position[2] = float("inf")
    with pytest.raises(ConvertError, match="finite ones are needed"):
        gathered.take(some(2.5, arm))


@pytest.mark.parametrize("said", ["{}", "[", '{"state": []}', "[" * 100_000, "3"])
def test_an_episode_that_is_none_is_named(said):
    with pytest.raises(ConvertError, match="JSON with a state"):
        convert.from_episode(message("std_msgs/msg/String")(said))


# ---- processes

pytest.importorskip("cyclonedds", reason="cyclonedds is not installed: pip install 'soma-agent[ros]'")


@pytest.fixture
def processes(monkeypatch):
    """Starts nodes in a domain of this test's own; all are gone at its end."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(os.getpid() % 100 + 100 * (os.getpid() // 100 % 2)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started = []

    def start(module: str, **parameters) -> subprocess.Popen:
        words = [w for name, value in parameters.items() for w in ("-p", f"{name}:={value}")]
        started.append(subprocess.Popen([sys.executable, "-m", f"ros_nodes.{module}", "--ros-args", *words],
                                        stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_what_is_left_of_a_sample_whose_publisher_has_gone_is_no_message():
    """Other middlewares say so when they leave; cyclonedds then asks the type for its key."""
    from ros_nodes.dds import HEADER, sample_type

    assert sample_type(convert.JOINTS, False).deserialize_key(HEADER, has_header=True, use_version_2=False).value is None


def test_a_client_gets_the_replies_to_its_own_calls(monkeypatch):
    """Of two clients of one service, which numbers its calls each from 1; without a server no call is made."""
    from ros_nodes.dds import Node

    monkeypatch.setenv("ROS_DOMAIN_ID", str(101 + os.getpid() % 100))
    kind, server, asking = "std_srvs/srv/SetBool", Node("server"), [Node("one"), Node("two")]
    request = message(f"{kind}_Request")
    calls, came = [node.client(kind, "switch") for node in asking], [[], []]
    assert not calls[0](request(True))

    def answer(asked, response):
        response.success, response.message = asked.data, f"{asked.data}"
        return response

    def settled(until) -> bool:
        end = time.time() + 20
        while not until() and time.time() < end:
            for node in (server, *asking):
                node.spin_once(0.01)
        return until()

    server.service(kind, "switch", answer)
    assert settled(lambda: all(call(request(False)) for call in calls))
    for data, call, mine in zip((True, False), calls, came):
        for _ in range(3):
            call(request(data), lambda response, mine=mine: mine.append((response.success, response.message)))
    assert settled(lambda: all(len(mine) == 3 for mine in came))
    assert came == [3 * [(True, "True")], 3 * [(False, "False")]]


def test_calls_and_timers_that_fail_are_named_and_the_node_goes_on(monkeypatch):
    from ros_nodes.dds import Node

    monkeypatch.setenv("ROS_DOMAIN_ID", str(101 + os.getpid() % 100))
    kind, node, said, came, rang = "std_srvs/srv/Trigger", Node("broken"), [], [], []
    monkeypatch.setattr(node.remark, "log", said.append)
    node.timer(0.05, lambda: rang.append(1 / len(rang)))
    node.timer(0.05, lambda: came or call(message(f"{kind}_Request")(), came.append))
    node.service(kind, "help", lambda request, response: {}["nobody"])
    call, end = node.client(kind, "help"), time.time() + 20
    node.spin(lambda: (came and len(said) >= 2) or time.time() > end)
    assert not came[0].success and any("a call of /help: KeyError" in text for text in said)
    assert any("a timer: ZeroDivisionError" in text for text in said)
    before, end = len(said), time.time() + 0.3
    node.spin(lambda: time.time() > end)
    assert len(said) == before  # once in a while, not each time


def test_three_processes_complete_a_task(processes):
    """Simulated robot, supervisor and agent: told in words, the shipped weights press the buttons that are named."""
    safety = processes("safety_node", lockstep="true")
    agent = processes("agent_node", lockstep="true")
    sim = processes("sim_node", lockstep="true", task="press_button", episodes=3)
    _, said = sim.communicate(timeout=120)
    assert sim.returncode == 0
    assert said.count(": success") >= 2 and "of 3 episodes succeeded" in said
    for process in (agent, safety):
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0


@pytest.mark.parametrize("name", ["safety", "agent", "sim", "audio"])
def test_a_signal_ends_a_node_cleanly(processes, name, tmp_path):
    """In the middle of what it does."""
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "some.wav", np.zeros(16000), 16000)
    from ros_nodes.dds import Node

    kind, topic = {"sim": (convert.IMAGE, "/camera/front/image_raw"), "audio": (convert.AUDIO, "/audio")}.get(
        name, (convert.DIAGNOSTICS, "/diagnostics"))
    node, heard, begin = Node("waiting"), [], time.time()
    node.subscribe(kind, topic, heard.append, "sensor")
    process = processes(f"{name}_node", **({"source": tmp_path / "some.wav"} if name == "audio" else {}))
    node.spin(lambda: len(heard) > 2 or time.time() - begin > 60)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 0 and "Traceback" not in said


def test_an_emergency_stop_that_came_first_is_kept(processes, tmp_path):
    """Pressed before anything is known of the robot, it holds from the first joint state on, until it is released."""
    from ros_nodes.dds import Node

    log = tmp_path / "safety.jsonl"
    processes("safety_node", log=log)
    node, begin = Node("early"), time.time()
    button, joints = node.publisher("std_msgs/msg/Bool", "/emergency_stop"), node.publisher(convert.JOINTS, "/joint_states")
    release, commands = node.publisher("std_msgs/msg/Empty", "/safety/release"), []
    node.subscribe(convert.TRAJECTORY, "/joint_commands", commands.append, "reliable")

    def send():
        since = time.time() - begin
        if since < 4.0:
            button(message("std_msgs/msg/Bool")(True))
        elif since < 5.0:
            joints(convert.to_joints(JointState(time.time(), np.array(PANDA.home), 0.08), TABLETOP))
        else:
            release(message("std_msgs/msg/Empty")())

    node.timer(0.05, send)
    node.spin(lambda: time.time() - begin > 6.0)
    kinds = [json.loads(line)["kind"] for line in log.read_text().splitlines()]
    assert commands and kinds[0] == "stop" and "released" in kinds


def driven(node, seconds: float, send) -> list:
    """Commands of the supervisor (time, positions, velocities) while `send(now)` drives it at 50 Hz."""
    commands = []
    node.subscribe(convert.TRAJECTORY, "/joint_commands", lambda c: commands.append(
        (time.time(), np.array(c.points[0].positions[:7]), np.array(c.points[0].velocities[:7]))), "reliable")
    node.timer(0.02, lambda: send(node.now()))
    end = time.time() + seconds
    node.spin(lambda: time.time() > end)
    return commands


@pytest.mark.parametrize("fault", ["silence", "emergency stop", "nan"])
def test_the_supervisor_stops_a_robot_in_motion(processes, fault, tmp_path):
    """Whoever decides falls silent, somebody presses the button, or NaN is asked for, while the arm swings: judged by the
    commands on the wire, the limits hold and the arm stands soon. A stop latches until it is released."""
    from ros_nodes.dds import Node

    log = tmp_path / "safety.jsonl"
    processes("safety_node", log=log, share=0.5)
    node, begin, fault_at = Node("driver"), None, 1.2
    joints = node.publisher(convert.JOINTS, "/joint_states")
    wishes = node.publisher(convert.TRAJECTORY, "/agent/trajectory")
    button = node.publisher("std_msgs/msg/Bool", "/emergency_stop")
    last, home = {"q": np.array(PANDA.home)}, np.array(PANDA.home)
    node.subscribe(convert.TRAJECTORY, "/joint_commands", lambda c: last.update(q=np.array(c.points[0].positions[:7])))

    def send(now):
        nonlocal begin
        joints(convert.to_joints(JointState(now, last["q"], 0.08), TABLETOP))
        if last["q"] is not home and begin is None and not np.array_equal(last["q"], home):
            begin = now
        since = 0.0 if begin is None else now - begin
        goal = home + np.array([2.0, 0, 0, 0, 0, 0, 0])
        wish = JointTrajectory(JointState(now, last["q"], 0.08), now + np.array([2.5]), goal[None], np.array([0.08]))
        sent = convert.to_trajectory(wish, TABLETOP)
        if since > fault_at and fault == "nan":
            sent.points[1].positions[0] = float("nan")
        if since > fault_at and fault == "emergency stop":
            button(message("std_msgs/msg/Bool")(True))
        if since <= fault_at or fault != "silence":
            wishes(sent)

    commands = driven(node, 6.0, send)
    times, q, dq = (np.array(x) for x in zip(*commands))
    assert begin is not None and dq[:, 0].max() > 0.3
    assert (np.abs(dq) <= 0.5 * PANDA.dq_max + 1e-6).all()
    assert (np.abs(np.diff(dq, axis=0)) <= 0.5 * PANDA.ddq_max * 0.01 + 1e-6).all()
    still, said = times[np.flatnonzero(np.abs(dq).max(1) > 1e-6)[-1]], log.read_text()
    assert still - begin - fault_at < 0.15 + 0.3
    assert {"silence": "no sign of life", "emergency stop": "emergency stop", "nan": "NaN"}[fault] in said
    assert all(set(json.loads(line)) == {"time", "kind", "detail"} for line in said.splitlines())
