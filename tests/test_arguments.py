"""A node's command line, as ROS has it."""

import pytest

from ros_nodes.arguments import ArgumentError, meant, of_files, read, run
from ros_nodes.safety_node import SafetyNode


def test_parameters_of_a_file_as_ros_has_them(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("""
/**:
  ros__parameters: {a: 1, b: 2}
/**/left:
  ros__parameters: {b: 3}
/arm/left:
  ros__parameters: {c: [x, y]}
right:
  ros__parameters: {a: 9}
""")
    shared, own = of_files([str(file)], "/arm/left")
    assert shared | own == {"a": 1, "b": 3, "c": ["x", "y"]}
    shared, own = of_files([str(file)], "/right")
    assert shared | own == {"a": 9, "b": 2}
    assert meant(["--ros-args", "-p", "d:=1", "--params-file", str(file)], "/right") == {"d"} | set(own)
    assert read(["--ros-args", "--params-file", str(file)]).files == [str(file)]
    file.write_text("left: {a: 1}")
    with pytest.raises(ArgumentError, match="ros__parameters"):
        of_files([str(file)], "/left")


def test_a_command_line_as_ros_has_it():
    words = "--ros-args -p task:=reach -p tick:=0.02 -p fixed:=[a,b] -r /audio:=/ears --remap __ns:=/left".split()
    assert read(words) == ({"task": "reach", "tick": 0.02, "fixed": ["a", "b"]}, {"/audio": "/ears"}, "/left", "", [])
    assert read(["-r", "__node:=second"]).name == "second"
    with pytest.raises(ArgumentError, match="-p task=reach: allowed are -p NAME:=VALUE"):
        read(["-p", "task=reach"])
    with pytest.raises(ArgumentError, match=r"-p fixed:=\[a: a value in YAML is needed"):
        read(["-p", "fixed:=[a"])


def test_what_a_command_line_has_for_one_node_is_for_that_node():
    words = ["-p", "agent:period:=0.2", "-p", "/left/safety:share:=0.5", "-r", "safety:audio:=/ears", "-r", "agent:__node:=mind",
             "-p", "mind:seed:=3"]
    assert read(words, "agent") == ({"seed": 3}, {}, "/", "mind", [])
    assert read(words, "safety") == ({}, {"audio": "/ears"}, "/", "", [])
    assert read(words, "/left/safety").parameters == {"share": 0.5}
    assert meant(words, "/left/safety") == {"share"} and meant(words, "/right/agent") == {"period"}


@pytest.mark.parametrize("words, domain, why", [
    (["-r", "__node:=2nd"], "0", "name '2nd'"), (["-r", "__ns:=/a b"], "0", "name '/a b'"),
    (["-r", "wrench:=/a b"], "0", "name '/a b'"), (["-p", "tick:={"], "0", "a value in YAML is needed"),
    (["-p", "workspace:=[0.2, -0.4, 0.0, 0.8, 0.4, O.7]"], "0", "parameter workspace, number 6: float is needed, got 'O.7'"),
    (["-p", "fixed:=[3]"], "0", "parameter fixed, number 1: str is needed, got 3"),
    ([], "x", "ROS_DOMAIN_ID: 0 to 232"), ([], "233", "got '233'")])
def test_a_mistake_in_what_is_asked_is_named_and_ends_with_status_2(words, domain, why, monkeypatch, capsys):
    pytest.importorskip("cyclonedds", reason="cyclonedds is not installed: pip install 'soma-agent[ros]'")
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    monkeypatch.setenv("SOMA_TRANSPORT", "dds")
    assert run("safety", SafetyNode, ["--ros-args", "-p", "force:=10.0", *words]) == 2
    assert why in capsys.readouterr().err
