"""Recordings of ROS become the demonstrations that were played, in both of rosbag2's storages."""

import json
from array import array

import numpy as np
import pytest

from agent.spec import ACTION, AUDIO, IMAGES, STATE, Chunk
from envs.arm import PANDA, JointState, JointTrajectory, ee_delta, ee_delta_action, plan
from envs.tabletop.env import TabletopEnv
from ros_nodes import convert
from ros_nodes.cdr import encode
from ros_nodes.interfaces import message, type_hash
from training.cli import main
from training.data.damage import check_dataset
from training.data.demos import DemoReader
from training.data.from_bag import BagError, camera_name, from_bag

rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="rosbags is not installed: pip install 'soma-agent[ros]'")
STRING = "std_msgs/msg/String"


class Recording:
    """A bag whose recorder's clock runs twice as fast as the sensors', 100 s ahead, as with /clock."""

    def __init__(self, folder, storage="SQLITE3", start=0.0):
        self.writer = rosbag2.Writer(folder, version=9, storage_plugin=rosbag2.StoragePlugin[storage])
        self.writer.open()
        self.connections, self.now = {}, start

    def put(self, topic, value):
        kind = value.INTERFACE
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, msgdef="", rihs01=type_hash(kind))
        self.writer.write(self.connections[topic], round((100 + 2 * self.now) * 1e9), encode(value))


def in_parts(state):
    """The arm's joints, and the gripper by itself."""
    for names in (state.name[:7], state.name[7:]):
        part = message(convert.JOINTS)(name=names, position=array("d", [dict(zip(state.name, state.position))[n] for n in names]))
        yield convert.header(part, convert.seconds(state.header.stamp))


def play(recording, seed, steps, verdict=None, blind=(), apart=False):
    """The expert at work, its sensors and commands recorded: (observations, actions). blind: steps without pictures. apart:
    arm and gripper say each themselves where they are, the gripper first."""
    env = TabletopEnv("reach", "new_scenes", "joint_position", "text")
    start = recording.now
    obs, _ = env.reset(seed=seed)
    recording.put("/instruction", message(STRING)(env.instruction))
    seen, done = [], []
    for step in range(steps):
        recording.now = now = start + env.time
        for name in ("front", "wrist") if step not in blind else ():
            recording.put(f"/camera/{name}/image_raw", convert.to_image(obs[IMAGES + name], now, name))
        recording.put("/audio", convert.to_audio(obs[AUDIO], 16000, now - 0.1))
        state = convert.to_joints(JointState(now, env.measured.position, env.measured.opening), convert.TABLETOP)
        arm, gripper = in_parts(state) if apart else (state, None)
        for topic, part in (("/gripper_states", gripper), ("/joint_states", arm)):
            if part is not None:
                recording.put(topic, part)
        action = env.expert_action()
        moved = plan(Chunk(action[None], env.time, 10.0), env._ee_delta, env.arm, env.command)
        point = JointTrajectory(JointState(now, env.command.position, env.command.opening), np.array([now + 0.1]),
                                moved.positions, moved.openings)
        recording.put("/joint_commands", convert.to_trajectory(point, convert.TABLETOP))
        seen.append(obs)
        done.append(action)
        obs, *_ = env.step(np.append(moved.positions[0], moved.openings[0]).astype(np.float32))
    if verdict is not None:
        recording.put("/episode", message(STRING)(json.dumps({"state": verdict})))
    recording.now = start + env.time + 0.5
    return env.instruction, seen, done


@pytest.mark.parametrize("storage, apart", [("SQLITE3", False), ("MCAP", True)])
def test_a_recording_becomes_what_was_played(tmp_path, storage, apart):
    recording = Recording(tmp_path / "bag", storage)
    played = [play(recording, 3, 14, "success", apart=apart), play(recording, 4, 8, "failure", apart=apart),
              play(recording, 5, 11, apart=apart)]
    recording.writer.close()
    lines = from_bag(tmp_path / "bag", tmp_path / "out")
    assert [line.rpartition(": ")[2] for line in lines] == ["13 frames", "a failure, passed over", "10 frames"]
    reader = DemoReader(tmp_path / "out")
    assert [e.task for e in reader.episodes] == [played[0][0], played[2][0]]
    assert reader.episodes[0].info["success"] is True and "success" not in reader.episodes[1].info
    columns = reader.columns()
    for episode, (_, seen, done) in zip(reader.episodes, (played[0], played[2])):
        for i, row in enumerate(range(episode.start, episode.start + episode.length)):
            np.testing.assert_allclose(columns[STATE][row], seen[i][STATE], atol=2e-6)
            np.testing.assert_allclose(columns[ACTION][row], done[i], atol=2e-3)
        shown = reader.frames(IMAGES + "front", range(episode.start, episode.start + episode.length))
        assert np.abs(shown.astype(int) - np.stack([o[IMAGES + "front"] for o in seen[: episode.length]])).mean() < 4
        heard = np.concatenate([o[AUDIO] for o in seen[1 : episode.length + 1]])
        np.testing.assert_allclose(reader.audio(episode.index)["world"], heard, atol=1e-4)
    assert not check_dataset(tmp_path / "out", True)


def test_what_is_missing_is_named(tmp_path, capsys):
    with pytest.raises(BagError, match="no metadata.yaml"):
        from_bag(tmp_path, tmp_path / "out")
    recording = Recording(tmp_path / "bag")
    play(recording, 3, 12, blind=range(2, 7))
    recording.writer.close()
    assert "front: nothing new for more than 0.3 s at 0.5" in from_bag(tmp_path / "bag", tmp_path / "out")[0]
    with pytest.raises(BagError, match=r"/no needed; it has /audio \(soma_msgs/msg/Audio\)"):
        from_bag(tmp_path / "bag", tmp_path / "out", cameras={"front": "/no"})
    with pytest.raises(BagError, match="no joint state of a, b, .*: joint state without a, b; it has joint_1"):
        from_bag(tmp_path / "bag", tmp_path / "out", joints=convert.Joints(("a", "b", *convert.TABLETOP.names[2:])))
    with pytest.raises(BagError, match="joints=a,b: the 7 of the panda and a gripper are needed"):
        from_bag(tmp_path / "bag", tmp_path / "out", joints=convert.Joints(("a", "b")))
    with pytest.raises(BagError, match="arm 'ur5': allowed are panda, fr3"):
        from_bag(tmp_path / "bag", tmp_path / "out", arm="ur5")
    assert not (tmp_path / "out").exists()
    words = ["data", "from-bag", str(tmp_path / "bag"), f"out={tmp_path / 'out'}", "oldest=1.0",
             "cameras.eye=/camera/front/image_raw", "task=go to it"]
    assert main(words) == 0 and "'go to it': 11 frames" in capsys.readouterr().out
    assert list(DemoReader(tmp_path / "out").spec.cameras) == ["eye"]


def test_recordings_of_one_name_are_told_apart_and_none_is_added_twice(tmp_path):
    for day, seed in (("monday", 3), ("tuesday", 4)):
        recording = Recording(tmp_path / day / "session", start=1000.0 * seed)
        play(recording, seed, 6)
        recording.writer.close()
    for day in ("monday", "tuesday"):
        assert from_bag(tmp_path / day / "session", tmp_path / "out")[0].endswith("5 frames")
    assert "has it already, passed over" in from_bag(tmp_path / "monday/session", tmp_path / "out")[0]
    assert len(DemoReader(tmp_path / "out").episodes) == 2


def test_what_was_finished_before_a_broken_message_is_kept(tmp_path, monkeypatch):
    recording, to_image = Recording(tmp_path / "bag"), convert.to_image

    def broken(*args):
        image = to_image(*args)
        image.encoding = "none"
        return image

    play(recording, 3, 6, "success")
    monkeypatch.setattr(convert, "to_image", broken)
    play(recording, 4, 6)
    recording.writer.close()
    with pytest.raises(convert.ConvertError, match="encoding 'none'"):
        from_bag(tmp_path / "bag", tmp_path / "out")
    assert len(DemoReader(tmp_path / "out").episodes) == 1


def test_cameras_are_named_after_their_topics():
    topics = {"/camera/front/image_raw": "front", "/wrist_cam/color/image_raw/compressed": "wrist_cam_color",
              "/camera/image_raw": "camera"}
    assert {topic: camera_name(topic) for topic in topics} == topics


def test_the_action_between_two_commands_is_planned_backwards():
    rng, spec = np.random.default_rng(0), ee_delta_action(None)
    command = JointState(0.0, PANDA.home, 0.04)
    for _ in range(50):
        action = rng.uniform(-0.4, 0.4, 5).astype(np.float32)
        moved = plan(Chunk(action[None], 0.0, 10.0), spec, PANDA, command)
        after = JointState(0.1, moved.positions[0], float(moved.openings[0]))
        np.testing.assert_allclose(ee_delta(spec, PANDA, command, after), action, atol=1e-3)
