"""A node on rclpy, with the methods of ros_nodes.dds.Node.

Topics are sent and taken as bytes, written and read by ros_nodes.cdr, so that a node sees the same messages whatever
carries it; the ROS classes are needed for their type support alone. Name, namespace, remapping, parameters and the clock
are ROS's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterException, ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.signals import SignalHandlerOptions

from ros_nodes.arguments import ArgumentError, Parameter, meant, valid
from ros_nodes.cdr import CdrError, decode, encode
from ros_nodes.interfaces import message
from ros_nodes.transport import WAITING, Remarks, guarded, ignore, quality

LONGEST_WAIT = 0.1  # s
SERVICES = {"SendGoal": "SendGoalService", "GetResult": "GetResultService"}  # of an action, as rosidl names them


@cache
def ros_class(kind: str) -> type:
    """ROS's class of an interface: "sensor_msgs/msg/Image", "std_srvs/srv/Trigger", "soma_msgs/action/ExecuteTask_SendGoal".
    Raises ArgumentError where its package is not built."""
    package, sort, name = kind.split("/")
    try:
        module = import_module(f"{package}.{sort}")
    except ModuleNotFoundError as error:
        raise ArgumentError(f"no ROS package {package} ({error}): build it (colcon build) and source its setup") from error
    whole, _, part = name.partition("_")
    return getattr(getattr(module, whole).Impl, SERVICES.get(part, part)) if part else getattr(module, name)


def profile(kind: str) -> QoSProfile:
    asked = quality(kind)
    return QoSProfile(
        depth=asked.depth,
        reliability=ReliabilityPolicy.RELIABLE if asked.reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if asked.latched else DurabilityPolicy.VOLATILE)


def describe(parameter: Parameter) -> ParameterDescriptor:
    """Read once, at the start; types are checked by ros_nodes.arguments.valid, which says what is allowed."""
    out = ParameterDescriptor(description=parameter.about, read_only=True, dynamic_typing=True)
    if isinstance(parameter.default, float) and parameter.low is not None:
        out.floating_point_range = [FloatingPointRange(from_value=parameter.low, to_value=parameter.high)]
    elif isinstance(parameter.default, int) and parameter.low is not None:
        out.integer_range = [IntegerRange(from_value=int(parameter.low), to_value=int(parameter.high))]
    return out


class Later:
    """A response that comes when it comes."""

    def __init__(self):
        self.value = self.send = None

    def give(self, value: Any) -> None:
        self.value = value
        self._meet()

    def goes(self, send: Callable[[Any], None]) -> None:
        """To whom it goes."""
        self.send = send
        self._meet()

    def _meet(self) -> None:
        if self.value is not None and self.send is not None:
            self.send(self.value)


class Node:
    """words: the command line, as `--ros-args -p NAME:=VALUE`. Raises ArgumentError for one that ROS does not take."""

    def __init__(self, name: str, words: Sequence[str] = ()):
        marked = words if "--ros-args" in words or not words else ["--ros-args", *words]
        try:
            rclpy.init(args=[name, *marked], signal_handler_options=SignalHandlerOptions.NO)
            self.node = rclpy.create_node(name)
        except Exception as error:  # rclpy's own, of several kinds, for arguments and names that cannot be
            raise ArgumentError(str(error)) from error
        self.words, self.executor, self.running, self.publishers = words, SingleThreadedExecutor(), True, {}
        self.executor.add_node(self.node)
        self.remark = Remarks(self.log)

    from_words = classmethod(lambda cls, name, words: cls(name, words))

    @property
    def name(self) -> str:
        return self.node.get_name()

    # ---- time, parameters, log

    def now(self) -> float:
        return 1e-9 * self.node.get_clock().now().nanoseconds

    def give_time(self) -> None:
        """For the node that gives /clock: go by the wall clock, whatever use_sim_time says."""
        self.node.set_parameters([rclpy.Parameter("use_sim_time", value=False)])

    def parameters(self, described: Mapping[str, Parameter]) -> SimpleNamespace:
        try:
            values = {name: self.node.declare_parameter(name, p.default, describe(p)).value for name, p in described.items()}
        except (InvalidParameterException, ParameterException) as error:
            raise ArgumentError(str(error)) from error
        asked = meant(self.words, self.node.get_fully_qualified_name())
        wrong = {name: None for name in asked if not self.node.has_parameter(name)}
        return SimpleNamespace(**valid(wrong | {n: plain(v) for n, v in values.items()}, described))

    def log(self, text: str) -> None:
        self.node.get_logger().info(text)

    # ---- what is sent and received

    def publisher(self, kind: str, topic: str, qos: str = "reliable") -> Callable[[Any], None]:
        made = self.publishers[topic] = self.node.create_publisher(ros_class(kind), topic, profile(qos))
        return lambda value: made.publish(encode(value, kind))

    def subscribe(self, kind: str, topic: str, callback: Callable[[Any], None], qos: str = "reliable") -> None:
        def handle(data: bytes) -> None:
            try:
                value = decode(data, kind)
            except CdrError as error:
                self.remark(f"no {kind} on {topic}", f"a message on {topic} is no {kind}: passed over ({error})")
                return
            guarded(self, f"a message on {topic} is passed over", callback, value)

        self.node.create_subscription(ros_class(kind), topic, handle, profile(qos), raw=True)

    def listeners(self, topic: str) -> int:
        return self.publishers[topic].get_subscription_count()

    def service(self, kind: str, name: str, answer: Callable[[Any, Any], Any], later: bool = False) -> None:
        service, (ask, reply) = ros_class(kind), (f"{kind}_Request", f"{kind}_Response")

        def handle(request, _):
            asked = decode(serialize_message(request), ask)
            if not later:
                return as_ros(guarded(self, f"a call of {name}", answer, asked, message(reply)()) or message(reply)())
            coming = Later()
            guarded(self, f"a call of {name}", answer, asked, coming.give)
            return coming

        def as_ros(value):
            return deserialize_message(encode(value, reply), service.Response)

        made = self.node.create_service(service, name, handle)
        if later:  # awaiting in the callback would keep the executor busy, and the node's callback group taken
            send = made.send_response
            made.send_response = lambda coming, header: coming.goes(lambda value: send(as_ros(value), header))

    def client(self, kind: str, name: str) -> Callable[..., bool]:
        service, (ask, reply) = ros_class(kind), (f"{kind}_Request", f"{kind}_Response")
        made, waiting = self.node.create_client(service, name), deque()

        def call(request, answered: Callable[[Any], None] = ignore) -> bool:
            def done(future) -> None:
                response = decode(serialize_message(future.result()), reply)
                guarded(self, f"a reply of {name} is passed over", answered, response)

            if not made.service_is_ready():
                return False
            waiting.append(made.call_async(deserialize_message(encode(request, ask), service.Request)))
            waiting[-1].add_done_callback(done)
            if len(waiting) > WAITING:
                made.remove_pending_request(waiting.popleft())
            return True

        return call

    def timer(self, period: float, callback: Callable[[], None], once: bool = False) -> None:
        def due() -> None:
            if once:
                self.node.destroy_timer(timer)
            guarded(self, "a timer", callback)

        simulated = self.node.get_parameter("use_sim_time").value
        timer = self.node.create_timer(period, due, clock=None if simulated else Clock(clock_type=ClockType.STEADY_TIME))

    # ---- running

    def spin(self, until: Callable[[], bool] | None = None) -> None:
        while self.running and not (until is not None and until()):
            self.spin_once(LONGEST_WAIT)

    def spin_once(self, timeout: float) -> None:
        self.executor.spin_once(timeout_sec=timeout)

    def stop(self) -> None:
        self.running = False

    def close(self) -> None:
        """Leave the graph."""
        self.executor.shutdown(timeout_sec=0)
        self.node.destroy_node()
        rclpy.try_shutdown()


def plain(value: Any) -> Any:
    """A parameter's value as Python's own types."""
    return value if isinstance(value, (bool, int, float, str)) else list(value or [])
