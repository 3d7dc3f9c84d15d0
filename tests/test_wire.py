"""Messages on ROS 2's wire: bytes and type hashes as a real ROS 2 writes them, whatever is put in comes out again."""

import json
import os
import time
from array import array
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ros_nodes import interfaces
from ros_nodes.cdr import CdrError, decode, encode
from ros_nodes.interfaces import NUMBERS, UnknownInterface, described, fields, message, type_hash

DATA = Path(__file__).parent / "data" / "ros2"
GOLDEN = [entry for entry in json.loads((DATA / "golden_cdr.json").read_text()) if isinstance(entry["fields"], dict)]
HASHES = json.loads((DATA / "type_hashes.json").read_text())


def filled(name: str, values: dict):
    """A message with these values, the rest as ROS begins."""
    out = message(name)()
    for f in fields(name):
        if f.name in values:
            value = values[f.name]
            if "/" in f.kind:
                value = [filled(f.kind, v) for v in value] if f.many else filled(f.kind, value)
            setattr(out, f.name, value)
    return out


def values_of(value):
    """Nested plain values, for comparison."""
    if hasattr(value, "INTERFACE"):
        return {f.name: values_of(getattr(value, f.name)) for f in fields(value.INTERFACE)}
    return [values_of(v) for v in value] if isinstance(value, (list, array, bytes)) else value


@pytest.mark.parametrize("entry", GOLDEN, ids=[entry["type"] for entry in GOLDEN])
def test_bytes_are_those_that_rclpy_writes(entry):
    """But for the padding at the end, which readers pass over."""
    written, expected = filled(entry["type"], entry["fields"]), bytes.fromhex(entry["cdr_hex"])
    ours = encode(written)
    assert ours == expected[: len(ours)] and not any(expected[len(ours) :]) and len(expected) - len(ours) < 4
    assert values_of(decode(expected, entry["type"])) == values_of(written)


def test_diagnostics_read_as_rclpy_wrote_them():
    entry = next(e for e in json.loads((DATA / "golden_cdr.json").read_text()) if e["type"].endswith("DiagnosticArray"))
    (status,) = decode(bytes.fromhex(entry["cdr_hex"]), entry["type"]).status
    assert (status.level, status.name, status.message, status.hardware_id) == (1, "n", "m", "h")
    assert [(pair.key, pair.value) for pair in status.values] == [("k", "v")]


KNOWN = [name for name in described() if name in HASHES]


@pytest.mark.parametrize("name", KNOWN)
def test_type_hashes_are_those_of_ros(name):
    assert type_hash(name) == HASHES[name]


def test_most_interfaces_have_a_known_hash():
    assert len(KNOWN) > 45


@pytest.fixture
def all_of_ros(monkeypatch):
    """The interfaces of data/ros2/interfaces.txt, with what rosidl makes of services and actions, in place of the nodes' own."""
    monkeypatch.setattr(interfaces, "INTERFACES", (DATA / "interfaces.txt").read_text())
    described.cache_clear()
    yield
    described.cache_clear()


def test_the_hash_is_that_of_ros_for_each_interface_whose_hash_is_known(all_of_ros):
    assert len(HASHES) == 351 and {name: type_hash(name) for name in HASHES} == HASHES


def one(f, draw):
    if f.kind == "string":
        return draw(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=9))
    if f.kind == "bool":
        return draw(st.booleans())
    if f.kind.startswith("float"):
        return draw(st.floats(width=int(f.kind[5:]), allow_nan=False))
    if f.kind in NUMBERS:
        bits, signed = 8 * NUMBERS[f.kind][1], f.kind.startswith("int")
        return draw(st.integers(-(2 ** (bits - 1)) if signed else 0, 2 ** (bits - signed) - 1))
    return drawn(f.kind, draw)


def drawn(name, draw):
    out = message(name)()
    for f in fields(name):
        count = f.count if f.many == "array" else draw(st.integers(0, 3))
        value = [one(f, draw) for _ in range(count)] if f.many else one(f, draw)
        if f.many and f.kind in ("uint8", "byte"):
            value = bytes(value)
        elif f.many and f.kind in NUMBERS and f.kind != "bool":
            value = array(NUMBERS[f.kind][0], value)
        setattr(out, f.name, value)
    return out


def big_endian(name: str, value) -> bytes:
    """An independent writer, element by element, of the other byte order."""
    import struct

    out = bytearray()

    def number(kind, v):
        size = NUMBERS[kind][1]
        out.extend(bytes(-len(out) % size))
        out.extend(struct.pack(">" + NUMBERS[kind][0], v))

    def write(name, value):
        for f in fields(name):
            v = getattr(value, f.name)
            if f.many == "sequence":
                number("uint32", len(v))
            for item in v if f.many else [v]:
                if f.kind == "string":
                    number("uint32", len(item.encode()) + 1)
                    out.extend(item.encode() + b"\x00")
                elif f.kind in NUMBERS:
                    number(f.kind, item)
                else:
                    write(f.kind, item)
        if not fields(name):
            out.append(0)

    write(name, value)
    return b"\x00\x00\x00\x00" + bytes(out)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(described())), st.data())
def test_what_is_put_in_comes_out_in_either_byte_order(name, data):
    value = drawn(name, data.draw)
    assert values_of(decode(encode(value), name)) == values_of(value)
    assert values_of(decode(big_endian(name, value), name)) == values_of(value)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(described())), st.binary(max_size=80))
def test_any_bytes_are_a_message_or_a_named_error(name, data):
    try:
        decode(b"\x00\x01\x00\x00" + data, name)
    except CdrError:
        pass


def test_a_message_cut_short_and_a_wrong_value_are_named():
    whole = encode(filled("sensor_msgs/msg/JointState", {"name": ["a"], "position": [1.0]}))
    with pytest.raises(CdrError, match="bytes end at"):
        decode(whole[:-3], "sensor_msgs/msg/JointState")
    with pytest.raises(CdrError, match="a header of plain CDR is needed, got 00080000"):
        decode(b"\x00\x08\x00\x00", "std_msgs/msg/Bool")
    for change, why in (({"position": ["x"]}, "JointState.position"), ({"name": [3]}, "JointState.name")):
        with pytest.raises(CdrError, match=why):
            encode(filled("sensor_msgs/msg/JointState", change))
    with pytest.raises(CdrError, match="k: 9 values are needed, got 2"):
        encode(filled("sensor_msgs/msg/CameraInfo", {"k": [1.0, 2.0]}))
    with pytest.raises(UnknownInterface, match="'a/msg/B' is not described"):
        message("a/msg/B")


def test_values_of_rclpy_and_numpy_are_written_too():
    """rclpy holds single bytes as bytes, and numbers in numpy arrays."""
    status = SimpleNamespace(level=b"\x02", name="", message="", hardware_id="", values=[])
    assert decode(encode(status, "diagnostic_msgs/msg/DiagnosticStatus"), "diagnostic_msgs/msg/DiagnosticStatus").level == 2
    info = filled("sensor_msgs/msg/CameraInfo", {"k": np.arange(9.0)})
    assert decode(encode(info), "sensor_msgs/msg/CameraInfo").k.tolist() == list(range(9))


@pytest.mark.parametrize("distribution", ["jazzy", "humble"])
def test_who_reads_the_graph_is_told_in_its_own_form(distribution, monkeypatch):
    """Readers of Jazzy name a type hash, and their identifiers have 16 bytes; Humble's have 24 and no hash."""
    pytest.importorskip("cyclonedds", reason="cyclonedds is not installed: pip install 'soma-agent[ros]'")
    from cyclonedds.domain import DomainParticipant
    from cyclonedds.qos import Policy, Qos
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic

    from ros_nodes import dds

    monkeypatch.setenv("ROS_DOMAIN_ID", str(100 + time.time_ns() // 1000 % 99))
    node = dds.Node("someone", "/some/where")
    node.publisher("std_msgs/msg/String", "words")
    node.subscribe("std_msgs/msg/String", "words", lambda said: None)
    here = DomainParticipant(int(os.environ["ROS_DOMAIN_ID"]))
    form = dds.GRAPH if distribution == "jazzy" else dds.HUMBLE_GRAPH
    told = dds._struct(dds.GRAPH, {"__init__": lambda self, data=b"": setattr(self, "data", data),
                                   "deserialize": classmethod(lambda cls, data, *_, **__: cls(data))})
    hashed = Qos(Policy.Userdata(b"typehash=RIHS01_0;")) if distribution == "jazzy" else Qos()
    reader = DataReader(here, Topic(here, "ros_discovery_info", told), dds.profile("latched") + hashed)
    seen, end = [], time.time() + 10
    while not seen and time.time() < end:
        node.spin_once(0.05)
        seen = [decode(sample.data, form) for sample in reader.take() if hasattr(sample, "data")]
    (one,) = seen[-1].node_entities_info_seq
    assert (one.node_namespace, one.node_name) == ("/some/where", "someone")
    assert [len(one.reader_gid_seq), len(one.writer_gid_seq)] == [1, 1]
    assert {len(gid.data) for gid in (seen[-1].gid, *one.reader_gid_seq)} == {16 if distribution == "jazzy" else 24}


def test_a_client_that_listens_later_than_it_asks_gets_its_reply(monkeypatch):
    pytest.importorskip("cyclonedds", reason="cyclonedds is not installed: pip install 'soma-agent[ros]'")
    from ros_nodes.dds import Node, profile, sample_type

    monkeypatch.setenv("ROS_DOMAIN_ID", str(100 + time.time_ns() // 1000 % 99))
    server, client, kind, replies = Node("server"), Node("client"), "std_srvs/srv/Trigger", []
    server.service(kind, "poke", lambda request, response: response)
    ask = client._writer("rq/pokeRequest", f"{kind}_Request", profile("reliable"), call=True)
    begin, listening, asked = time.time(), None, False
    while not replies and time.time() < begin + 10:
        server.spin_once(0.005)
        if not asked and ask.get_matched_subscriptions():
            ask.write(sample_type(f"{kind}_Request", True)(message(f"{kind}_Request")(), (7, 1)))
            asked = time.time()
        if asked and listening is None and time.time() > asked + 0.04:
            listening = client._reader("rr/pokeReply", f"{kind}_Response", profile("reliable"), call=True)
        if listening is not None:
            replies = [sample for sample in listening.take(5) if getattr(sample, "value", None) is not None]
    assert [sample.caller for sample in replies] == [(7, 1)]
