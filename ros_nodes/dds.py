"""A node on ROS 2's wire without a ROS installation, over PyPI's cyclonedds.

Topic and type names, quality of service, type hashes and the graph's bookkeeping are those of ROS 2 Jazzy (bookkeeping in
Humble's form where Humble listens), so that `ros2 topic list`, `ros2 node list` and nodes of rclpy see these nodes as their
own kind. Services speak the form of rmw_cyclonedds.

Only this machine is reached unless ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET (or CYCLONEDDS_URI) says otherwise.
"""

from __future__ import annotations

import os
import re
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import count
from types import SimpleNamespace
from typing import Any

try:
    from cyclonedds.core import InstanceState, ReadCondition, SampleState, ViewState, WaitSet
    from cyclonedds.domain import Domain, DomainParticipant
    from cyclonedds.idl import IdlStruct
    from cyclonedds.idl import types as idl
    from cyclonedds.pub import DataWriter
    from cyclonedds.qos import Policy, Qos
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic
except ModuleNotFoundError as error:
    raise ImportError("there is neither rclpy nor cyclonedds: source ROS 2's setup.bash, or pip install -e '.[ros]'") from error

from ros_nodes.arguments import USE_SIM_TIME, ArgumentError, Parameter, of_files, read, valid
from ros_nodes.cdr import HEADER, CdrError, decode, encode
from ros_nodes.interfaces import Field, fields, message, type_hash
from ros_nodes.transport import WAITING, Remarks, guarded, ignore, quality

GRAPH, HUMBLE_GRAPH = "rmw_dds_common/msg/ParticipantEntitiesInfo", "rmw_dds_common/humble/ParticipantEntitiesInfo"
CALL = (Field("guid", "uint64"), Field("seq", "int64"))  # before each request and reply, as rmw_cyclonedds writes it
AT_ONCE = 64  # messages of one topic that are taken before the others have their turn
LONGEST_WAIT = 0.1  # s
LISTENS, LOOK = 0.1, 0.002  # s for which a reply waits for a client that does not listen yet; between looks whether it does
NEVER = float("inf")
NODE_NAME, FULL_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*"), re.compile("/|(/[A-Za-z_][A-Za-z0-9_]*)+")
LAST_DOMAIN = 232  # whose ports are below 65536 (DDSI-RTPS 9.6.1.1)

LOCALHOST = """<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo"/></Interfaces>
<AllowMulticast>false</AllowMulticast><MaxMessageSize>65500B</MaxMessageSize></General><Discovery>
<ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>100</MaxAutoParticipantIndex>
<Peers><Peer Address="localhost"/></Peers></Discovery></Domain></CycloneDDS>"""


def profile(kind: str) -> Qos:
    asked = quality(kind)
    reliable = Policy.Reliability.Reliable(100_000_000) if asked.reliable else Policy.Reliability.BestEffort
    durable = Policy.Durability.TransientLocal if asked.latched else Policy.Durability.Volatile
    return Qos(reliable, durable, Policy.History.KeepLast(asked.depth))


# ---- types, as DDS is told of them


def dds_type(name: str) -> str:
    """"sensor_msgs/msg/Image" -> "sensor_msgs::msg::dds_::Image_"."""
    package, kind, short = name.split("/")
    return f"{package}::{kind}::dds_::{short}_"


def _annotation(f: Field):
    if "/" in f.kind:
        one = _nested(f.kind)
    elif f.kind == "string":
        one = idl.bounded_str[f.chars] if f.chars else str
    else:
        one = bool if f.kind == "bool" else getattr(idl, {"char": "uint8"}.get(f.kind, f.kind))
    if f.many == "array":
        return idl.array[one, f.count]
    return (idl.sequence[one, f.count] if f.count else idl.sequence[one]) if f.many else one


def _struct(name: str, more: Mapping[str, Any], before: tuple[Field, ...] = ()) -> type:
    listed = (*before, *fields(name)) or (Field("structure_needs_at_least_one_member", "uint8"),)
    body = {"__annotations__": {f.name: _annotation(f) for f in listed}, "__idl_typename__": dds_type(name),
            "__idl_annotations__": {}, "__idl_field_annotations__": {}}
    return type(IdlStruct)(name.rpartition("/")[2], (IdlStruct,), body | dict(more))


@cache
def _nested(name: str) -> type:
    return _struct(name, {})


@cache
def sample_type(name: str, call: bool) -> type:
    """A type that cyclonedds carries: a sample holds a message as `value`, and with `call` whose call it is as `caller`
    (guid, seq). Written (as another interface, where `form` names one) and read by ros_nodes.cdr; bytes that are no such
    message give a value of None."""

    def begin(self, value, caller=(0, 0), form=name):
        self.value, self.caller, self.form = value, caller, form

    def write(self, buffer=None, endianness=None, use_version_2=None):
        body = encode(self.value, self.form)
        return HEADER + struct.pack("<Qq", *self.caller) + body[4:] if call else body

    def read(cls, data, has_header=True, use_version_2=None):
        try:
            if not call:
                return cls(decode(data, name))
            order = "<" if data[1] else ">"
            return cls(decode(data[:4] + data[20:], name), struct.unpack(order + "Qq", data[4:20]))
        except (CdrError, struct.error):
            return cls(None)

    def gone(cls, data, has_header=True, use_version_2=None):
        """What is left of a sample whose writer has gone."""
        return cls(None)

    more = {"__init__": begin, "serialize": write, "deserialize": classmethod(read), "deserialize_key": classmethod(gone)}
    return _struct(name, more, CALL if call else ())


# ---- the node


class Node:
    """One node: publishers, subscriptions, services and timers, all served by `spin` in one thread.

    parameters: over those that the node declares; files: of parameters, for this and other nodes. Time is the wall clock's,
    or /clock's where the parameter use_sim_time is true. Raises ArgumentError for a name or a domain that ROS does not take.
    """

    def __init__(self, name: str, namespace: str = "/", parameters: Mapping[str, Any] | None = None,
                 remap: Mapping[str, str] | None = None, domain: int | None = None, files: Sequence[str] = ()):
        self.name, self.namespace = fitting(name, NODE_NAME), fitting("/" + namespace.strip("/"), FULL_NAME)
        self.remark = Remarks(self.log)
        self.shared, own = of_files(files, self.whole(name))
        self.given = own | dict(parameters or {})
        self.remap = {self.whole(name): self.whole(other) for name, other in (remap or {}).items()}
        number = domain_asked() if domain is None else domain
        self.domain = _domain(number)
        self.participant = DomainParticipant(number, Qos(Policy.Userdata(b"enclave=/;")))
        self.waiting, self.handlers, self.timers, self.writers, self.readers = WaitSet(self.participant), [], [], [], []
        self.running, self.sim_time, self.graph_readers, self.replies = True, None, [], []
        self.graph = self._writer("ros_discovery_info", GRAPH, profile("latched"))
        if valid(self.shared | self.given, {"use_sim_time": USE_SIM_TIME}, strict=False)["use_sim_time"]:
            self.sim_time = 0.0
            self.subscribe("rosgraph_msgs/msg/Clock", "/clock", self._tick, "sensor")

    @classmethod
    def from_words(cls, name: str, words: Sequence[str]) -> "Node":
        """By a command line, as `--ros-args -p NAME:=VALUE`. Raises ArgumentError."""
        asked = read(words, name)
        return cls(asked.name or name, asked.namespace, asked.parameters, asked.remap, files=asked.files)

    # ---- time, parameters, log

    def now(self) -> float:
        """s."""
        return time.time() if self.sim_time is None else self.sim_time

    def give_time(self) -> None:
        """For the node that gives /clock: go by the wall clock, whatever use_sim_time says."""
        self.sim_time = None

    def _tick(self, clock) -> None:
        if self.sim_time is None:
            return
        before, self.sim_time = self.sim_time, clock.clock.sec + 1e-9 * clock.clock.nanosec
        if self.sim_time < before:  # begun anew: what was due then is due as much later now
            self.timers = [[period, due + self.sim_time - before, callback] for period, due, callback in self.timers]

    def parameters(self, described: Mapping[str, Parameter]) -> SimpleNamespace:
        """The values of a node's parameters. Raises ArgumentError for one that is not described, of another type than its
        default's, or out of range."""
        shared = {name: value for name, value in self.shared.items() if name in described}
        return SimpleNamespace(**valid(shared | self.given, described))

    def log(self, text: str) -> None:
        try:
            print(f"[{self.now():.3f}] [{self.name}] {text}", file=sys.stderr, flush=True)
        except OSError:  # nobody reads it any more
            pass

    # ---- what is sent and received

    def full(self, topic: str) -> str:
        """A topic or service by its whole name, remapped."""
        return fitting(self.remap.get(self.whole(topic), self.whole(topic)), FULL_NAME)

    def whole(self, topic: str) -> str:
        """"~" is this node's own; without a slash in front it is relative to the namespace."""
        if topic.startswith("~"):
            topic = f"{self.name}{topic[1:]}"
        return topic if topic.startswith("/") else f"{self.namespace.rstrip('/')}/{topic}"

    def publisher(self, kind: str, topic: str, qos: str = "reliable") -> Callable[[Any], None]:
        """A function that sends a message of interface `kind`."""
        sample, writer = sample_type(kind, False), self._writer("rt" + self.full(topic), kind, profile(qos))
        self._announce()
        return lambda value: writer.write(sample(value))

    def subscribe(self, kind: str, topic: str, callback: Callable[[Any], None], qos: str = "reliable") -> None:
        """callback(message) for each; those that cannot be read are named in the log."""
        reader = self._reader("rt" + self.full(topic), kind, profile(qos))

        def handle(sample) -> None:
            if sample.value is None:
                self.remark(f"no {kind} on {topic}", f"a message on {self.full(topic)} is no {kind}: passed over")
            else:
                guarded(self, f"a message on {topic} is passed over", callback, sample.value)

        self._attend(reader, handle)
        self._announce()

    def listeners(self, topic: str) -> int:
        """How many subscribe to a topic that this node publishes."""
        return sum(len(w.get_matched_subscriptions()) for w in self.writers if w.topic.name == "rt" + self.full(topic))

    def service(self, kind: str, name: str, answer: Callable[[Any, Any], Any], later: bool = False) -> None:
        """answer(request, response) -> response, for a service type as "std_srvs/srv/Trigger". later: answer(request,
        reply), and reply(response) is called when there is something to say."""
        full, (ask, reply) = self.full(name), (f"{kind}_Request", f"{kind}_Response")
        reader = self._reader(f"rq{full}Request", ask, profile("reliable"), call=True)
        writer, sample = self._writer(f"rr{full}Reply", reply, profile("reliable"), call=True), sample_type(reply, True)

        def handle(call) -> None:
            if call.value is None:
                self.remark(f"no {ask}", f"a call of {full} is no {ask}: passed over")
                return

            def send(response) -> None:
                self.replies.append((time.monotonic() + LISTENS, reader, writer, sample(response, call.caller)))
                self._reply()

            if later:
                guarded(self, f"a call of {full}", answer, call.value, send)
            else:
                send(guarded(self, f"a call of {full}", answer, call.value, message(reply)()) or message(reply)())

        self._attend(reader, handle)
        self._announce()

    def _reply(self) -> None:
        """Send the replies whose clients listen. A client is discovered in two steps, what asks and what hears: before the second
        a reply is lost."""
        waiting, self.replies = self.replies, []
        for until, reader, writer, sample in waiting:
            listening = len(writer.get_matched_subscriptions()) >= len(reader.get_matched_publications())
            if listening or time.monotonic() >= until:
                writer.write(sample)
            else:
                self.replies.append((until, reader, writer, sample))

    def client(self, kind: str, name: str) -> Callable[..., bool]:
        """call(request, answered) of a service: False where no server is there, else answered(response) once it comes."""
        full, (ask, reply) = self.full(name), (f"{kind}_Request", f"{kind}_Response")
        writer, sample = self._writer(f"rq{full}Request", ask, profile("reliable"), call=True), sample_type(ask, True)
        reader = self._reader(f"rr{full}Reply", reply, profile("reliable"), call=True)
        guid, numbers, waiting = int.from_bytes(os.urandom(8), "little"), count(1), {}

        def call(request, answered: Callable[[Any], None] = ignore) -> bool:
            if not (writer.get_matched_subscriptions() and reader.get_matched_publications()):
                return False
            caller = (guid, next(numbers))
            waiting[caller] = answered
            if len(waiting) > WAITING:
                del waiting[min(waiting)]
            writer.write(sample(request, caller))
            return True

        def handle(answer) -> None:
            if answer.value is None:
                self.remark(f"no {reply}", f"a reply of {full} is no {reply}: passed over")
            elif answer.caller in waiting:  # others are to other clients
                guarded(self, f"a reply of {full} is passed over", waiting.pop(answer.caller), answer.value)

        self._attend(reader, handle)
        self._announce()
        return call

    def timer(self, period: float, callback: Callable[[], None], once: bool = False) -> None:
        """callback() each `period` s, or once after it: of the simulation's time, or of a clock that nobody sets."""
        self.timers.append([NEVER if once else period, self.ticking() + period, callback])

    def ticking(self) -> float:
        """s, of the clock by which the timers go."""
        return time.monotonic() if self.sim_time is None else self.sim_time

    def _writer(self, topic: str, kind: str, qos: Qos, call: bool = False) -> DataWriter:
        writer = DataWriter(self.participant, self._topic(topic, kind, call), qos + _hash(kind))
        self.writers.append(writer)
        return writer

    def _reader(self, topic: str, kind: str, qos: Qos, call: bool = False) -> DataReader:
        reader = DataReader(self.participant, self._topic(topic, kind, call), qos + _hash(kind))
        self.readers.append(reader)
        return reader

    def _topic(self, topic: str, kind: str, call: bool) -> Topic:
        return Topic(self.participant, topic, sample_type(kind, call))

    def _attend(self, reader: DataReader, handle: Callable[[Any], None]) -> None:
        new = ReadCondition(reader, SampleState.NotRead | ViewState.Any | InstanceState.Any)
        self.waiting.attach(new)
        self.handlers.append((reader, new, handle))

    def _announce(self) -> None:
        """Tell those who read the graph which endpoints belong to this node: what `ros2 node info` shows. Humble's identifiers
        have 24 bytes and Jazzy's 16, `ros2 node list` fails on the other's, and readers of Jazzy alone name a type hash."""
        matched = self.graph.get_matched_subscriptions()
        readers = [reader for reader in map(self.graph.get_matched_subscription_data, matched) if reader is not None]
        self.graph_readers = matched if readers else []  # else to be asked again
        if not readers:
            return
        humble = not any(Policy.Userdata in reader.qos for reader in readers)

        def gid(guid):
            return message("rmw_dds_common/msg/Gid")(guid.bytes + bytes(8 if humble else 0))

        node = message("rmw_dds_common/msg/NodeEntitiesInfo")(self.namespace, self.name)
        node.reader_gid_seq = [gid(r.guid) for r in self.readers]
        node.writer_gid_seq = [gid(w.guid) for w in self.writers[1:]]
        info = message(GRAPH)(gid(self.participant.guid), [node])
        self.graph.write(sample_type(GRAPH, False)(info, form=HUMBLE_GRAPH if humble else GRAPH))

    # ---- running

    def spin(self, until: Callable[[], bool] | None = None) -> None:
        """Serve what comes in and the timers, until `stop` is called or `until()` holds."""
        while self.running and not (until is not None and until()):
            self.spin_once(LONGEST_WAIT)

    def spin_once(self, timeout: float) -> None:
        due = min((next for _, next, _ in self.timers), default=NEVER) if self.sim_time is None else NEVER
        timeout = min(timeout, LOOK) if self.replies else timeout
        self.waiting.wait(round(1e9 * max(0.0, min(timeout, due - time.monotonic()))))
        for reader, new, handle in self.handlers:
            for sample in reader.take(AT_ONCE, condition=new):
                if hasattr(sample, "value"):
                    handle(sample)
        self._reply()
        if self.graph.get_matched_subscriptions() != self.graph_readers:
            self._announce()
        for timer in [t for t in self.timers if self.ticking() >= t[1]]:
            late = self.ticking() - timer[1]
            timer[1] += timer[0] if late < timer[0] else timer[0] + late  # what was missed is not made up for
            guarded(self, "a timer", timer[2])
        self.timers = [timer for timer in self.timers if timer[1] < NEVER]

    def stop(self) -> None:
        self.running = False

    def close(self) -> None:
        """Leave the graph, which ends with the process."""


def fitting(name: str, form: re.Pattern) -> str:
    """The name. Raises ArgumentError for one that ROS does not take."""
    if not form.fullmatch(name):
        raise ArgumentError(f"name {name!r}: parts of letters, digits and underscores are needed, none with a digit first")
    return name


def domain_asked() -> int:
    """Raises ArgumentError for a ROS_DOMAIN_ID that is no domain."""
    asked = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not asked.isdecimal() or int(asked) > LAST_DOMAIN:
        raise ArgumentError(f"ROS_DOMAIN_ID: 0 to {LAST_DOMAIN} is allowed, got {asked!r}")
    return int(asked)


def _hash(kind: str) -> Qos:
    return Qos(Policy.Userdata(f"typehash={type_hash(kind)};".encode()))


@cache
def _domain(number: int) -> Domain | None:
    """The domain with its network settings, made once a process; None where CYCLONEDDS_URI or ROS say how."""
    if "CYCLONEDDS_URI" in os.environ or os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST") != "LOCALHOST":
        return None
    return Domain(number, LOCALHOST)
