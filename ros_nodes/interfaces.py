"""The ROS 2 interfaces that the nodes speak, described once: their fields, Python classes, wire form and type hash.

`message("sensor_msgs/msg/JointState")` is a class whose attributes are named as rclpy's are, so that a node reads the same
with rclpy and without a ROS installation. Fields are as in the interface packages of ROS 2 Jazzy, which in Humble differ in
the graph's own alone, described as rmw_dds_common/humble; arrays of numbers are array.array, uint8[] is bytes. Our own are
read from the interface package soma_msgs beside this file: msg/Audio, for common_interfaces has no sound whose stamp
survives, and action/ExecuteTask.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from dataclasses import field, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

INTERFACES = """
builtin_interfaces/msg/Time: int32 sec, uint32 nanosec
builtin_interfaces/msg/Duration: int32 sec, uint32 nanosec
unique_identifier_msgs/msg/UUID: uint8[16] uuid
std_msgs/msg/Header: builtin_interfaces/msg/Time stamp, string frame_id
std_msgs/msg/String: string data
std_msgs/msg/Bool: bool data
std_msgs/msg/Empty:
std_msgs/msg/MultiArrayDimension: string label, uint32 size, uint32 stride
std_msgs/msg/MultiArrayLayout: std_msgs/msg/MultiArrayDimension[] dim, uint32 data_offset
std_msgs/msg/Float64MultiArray: std_msgs/msg/MultiArrayLayout layout, float64[] data
geometry_msgs/msg/Vector3: float64 x, float64 y, float64 z
geometry_msgs/msg/Point: float64 x, float64 y, float64 z
geometry_msgs/msg/PointStamped: std_msgs/msg/Header header, geometry_msgs/msg/Point point
geometry_msgs/msg/Quaternion: float64 x=0, float64 y=0, float64 z=0, float64 w=1
geometry_msgs/msg/Pose: geometry_msgs/msg/Point position, geometry_msgs/msg/Quaternion orientation
geometry_msgs/msg/PoseStamped: std_msgs/msg/Header header, geometry_msgs/msg/Pose pose
geometry_msgs/msg/Transform: geometry_msgs/msg/Vector3 translation, geometry_msgs/msg/Quaternion rotation
geometry_msgs/msg/Twist: geometry_msgs/msg/Vector3 linear, geometry_msgs/msg/Vector3 angular
geometry_msgs/msg/TwistStamped: std_msgs/msg/Header header, geometry_msgs/msg/Twist twist
geometry_msgs/msg/PoseWithCovariance: geometry_msgs/msg/Pose pose, float64[36] covariance
geometry_msgs/msg/TwistWithCovariance: geometry_msgs/msg/Twist twist, float64[36] covariance
nav_msgs/msg/Odometry: std_msgs/msg/Header header, string child_frame_id, geometry_msgs/msg/PoseWithCovariance pose, geometry_msgs/msg/TwistWithCovariance twist
geometry_msgs/msg/Wrench: geometry_msgs/msg/Vector3 force, geometry_msgs/msg/Vector3 torque
geometry_msgs/msg/WrenchStamped: std_msgs/msg/Header header, geometry_msgs/msg/Wrench wrench
sensor_msgs/msg/Image: std_msgs/msg/Header header, uint32 height, uint32 width, string encoding, uint8 is_bigendian, uint32 step, uint8[] data
sensor_msgs/msg/CompressedImage: std_msgs/msg/Header header, string format, uint8[] data
sensor_msgs/msg/RegionOfInterest: uint32 x_offset, uint32 y_offset, uint32 height, uint32 width, bool do_rectify
sensor_msgs/msg/CameraInfo: std_msgs/msg/Header header, uint32 height, uint32 width, string distortion_model, float64[] d, float64[9] k, float64[9] r, float64[12] p, uint32 binning_x, uint32 binning_y, sensor_msgs/msg/RegionOfInterest roi
sensor_msgs/msg/JointState: std_msgs/msg/Header header, string[] name, float64[] position, float64[] velocity, float64[] effort
sensor_msgs/msg/Imu: std_msgs/msg/Header header, geometry_msgs/msg/Quaternion orientation, float64[9] orientation_covariance, geometry_msgs/msg/Vector3 angular_velocity, float64[9] angular_velocity_covariance, geometry_msgs/msg/Vector3 linear_acceleration, float64[9] linear_acceleration_covariance
trajectory_msgs/msg/JointTrajectoryPoint: float64[] positions, float64[] velocities, float64[] accelerations, float64[] effort, builtin_interfaces/msg/Duration time_from_start
trajectory_msgs/msg/JointTrajectory: std_msgs/msg/Header header, string[] joint_names, trajectory_msgs/msg/JointTrajectoryPoint[] points
trajectory_msgs/msg/MultiDOFJointTrajectoryPoint: geometry_msgs/msg/Transform[] transforms, geometry_msgs/msg/Twist[] velocities, geometry_msgs/msg/Twist[] accelerations, builtin_interfaces/msg/Duration time_from_start
trajectory_msgs/msg/MultiDOFJointTrajectory: std_msgs/msg/Header header, string[] joint_names, trajectory_msgs/msg/MultiDOFJointTrajectoryPoint[] points
rosgraph_msgs/msg/Clock: builtin_interfaces/msg/Time clock
diagnostic_msgs/msg/KeyValue: string key, string value
diagnostic_msgs/msg/DiagnosticStatus: byte level, string name, string message, string hardware_id, diagnostic_msgs/msg/KeyValue[] values
diagnostic_msgs/msg/DiagnosticArray: std_msgs/msg/Header header, diagnostic_msgs/msg/DiagnosticStatus[] status
lifecycle_msgs/msg/State: uint8 id, string label
lifecycle_msgs/msg/Transition: uint8 id, string label
lifecycle_msgs/msg/TransitionDescription: lifecycle_msgs/msg/Transition transition, lifecycle_msgs/msg/State start_state, lifecycle_msgs/msg/State goal_state
lifecycle_msgs/msg/TransitionEvent: uint64 timestamp, lifecycle_msgs/msg/Transition transition, lifecycle_msgs/msg/State start_state, lifecycle_msgs/msg/State goal_state
lifecycle_msgs/srv/ChangeState_Request: lifecycle_msgs/msg/Transition transition
lifecycle_msgs/srv/ChangeState_Response: bool success
lifecycle_msgs/srv/GetState_Request:
lifecycle_msgs/srv/GetState_Response: lifecycle_msgs/msg/State current_state
lifecycle_msgs/srv/GetAvailableStates_Request:
lifecycle_msgs/srv/GetAvailableStates_Response: lifecycle_msgs/msg/State[] available_states
lifecycle_msgs/srv/GetAvailableTransitions_Request:
lifecycle_msgs/srv/GetAvailableTransitions_Response: lifecycle_msgs/msg/TransitionDescription[] available_transitions
std_srvs/srv/Trigger_Request:
std_srvs/srv/Trigger_Response: bool success, string message
std_srvs/srv/SetBool_Request: bool data
std_srvs/srv/SetBool_Response: bool success, string message
rcl_interfaces/msg/ParameterValue: uint8 type, bool bool_value, int64 integer_value, float64 double_value, string string_value, byte[] byte_array_value, bool[] bool_array_value, int64[] integer_array_value, float64[] double_array_value, string[] string_array_value
rcl_interfaces/msg/Parameter: string name, rcl_interfaces/msg/ParameterValue value
rcl_interfaces/msg/ParameterEvent: builtin_interfaces/msg/Time stamp, string node, rcl_interfaces/msg/Parameter[] new_parameters, rcl_interfaces/msg/Parameter[] changed_parameters, rcl_interfaces/msg/Parameter[] deleted_parameters
rcl_interfaces/msg/Log: builtin_interfaces/msg/Time stamp, uint8 level, string name, string msg, string file, string function, uint32 line
action_msgs/msg/GoalInfo: unique_identifier_msgs/msg/UUID goal_id, builtin_interfaces/msg/Time stamp
action_msgs/msg/GoalStatus: action_msgs/msg/GoalInfo goal_info, int8 status
action_msgs/msg/GoalStatusArray: action_msgs/msg/GoalStatus[] status_list
action_msgs/srv/CancelGoal_Request: action_msgs/msg/GoalInfo goal_info
action_msgs/srv/CancelGoal_Response: int8 return_code, action_msgs/msg/GoalInfo[] goals_canceling
control_msgs/msg/JointJog: std_msgs/msg/Header header, string[] joint_names, float64[] displacements, float64[] velocities, float64 duration
control_msgs/msg/JointTolerance: string name, float64 position, float64 velocity, float64 acceleration
control_msgs/msg/JointComponentTolerance: string joint_name, uint16 component, float64 position, float64 velocity, float64 acceleration
control_msgs/msg/GripperCommand: float64 position, float64 max_effort
control_msgs/action/FollowJointTrajectory_Goal: trajectory_msgs/msg/JointTrajectory trajectory, trajectory_msgs/msg/MultiDOFJointTrajectory multi_dof_trajectory, control_msgs/msg/JointTolerance[] path_tolerance, control_msgs/msg/JointComponentTolerance[] component_path_tolerance, control_msgs/msg/JointTolerance[] goal_tolerance, control_msgs/msg/JointComponentTolerance[] component_goal_tolerance, builtin_interfaces/msg/Duration goal_time_tolerance
control_msgs/action/FollowJointTrajectory_Result: int32 error_code, string error_string
control_msgs/action/FollowJointTrajectory_Feedback: std_msgs/msg/Header header, string[] joint_names, trajectory_msgs/msg/JointTrajectoryPoint desired, trajectory_msgs/msg/JointTrajectoryPoint actual, trajectory_msgs/msg/JointTrajectoryPoint error, string[] multi_dof_joint_names, trajectory_msgs/msg/MultiDOFJointTrajectoryPoint multi_dof_desired, trajectory_msgs/msg/MultiDOFJointTrajectoryPoint multi_dof_actual, trajectory_msgs/msg/MultiDOFJointTrajectoryPoint multi_dof_error
control_msgs/action/GripperCommand_Goal: control_msgs/msg/GripperCommand command
control_msgs/action/GripperCommand_Result: float64 position, float64 effort, bool stalled, bool reached_goal
control_msgs/action/GripperCommand_Feedback: float64 position, float64 effort, bool stalled, bool reached_goal
rmw_dds_common/msg/Gid: uint8[16] data
rmw_dds_common/msg/NodeEntitiesInfo: string<=256 node_namespace, string<=256 node_name, rmw_dds_common/msg/Gid[] reader_gid_seq, rmw_dds_common/msg/Gid[] writer_gid_seq
rmw_dds_common/msg/ParticipantEntitiesInfo: rmw_dds_common/msg/Gid gid, rmw_dds_common/msg/NodeEntitiesInfo[] node_entities_info_seq
rmw_dds_common/humble/Gid: uint8[24] data
rmw_dds_common/humble/NodeEntitiesInfo: string<=256 node_namespace, string<=256 node_name, rmw_dds_common/humble/Gid[] reader_gid_seq, rmw_dds_common/humble/Gid[] writer_gid_seq
rmw_dds_common/humble/ParticipantEntitiesInfo: rmw_dds_common/humble/Gid gid, rmw_dds_common/humble/NodeEntitiesInfo[] node_entities_info_seq
"""  # noqa: E501 one interface a line

OWN = Path(__file__).parent / "soma_msgs"
# what rosidl makes of an action of which Goal, Result and Feedback are described, {0} being its name
ACTION = """
{0}_FeedbackMessage: unique_identifier_msgs/msg/UUID goal_id, {0}_Feedback feedback
{0}_SendGoal_Request: unique_identifier_msgs/msg/UUID goal_id, {0}_Goal goal
{0}_SendGoal_Response: bool accepted, builtin_interfaces/msg/Time stamp
{0}_GetResult_Request: unique_identifier_msgs/msg/UUID goal_id
{0}_GetResult_Response: int8 status, {0}_Result result
"""

# name -> (array.array's letter, bytes on the wire, number in type_description_interfaces/msg/FieldType)
NUMBERS = {"bool": ("B", 1, 15), "byte": ("B", 1, 16), "char": ("B", 1, 3), "int8": ("b", 1, 2), "uint8": ("B", 1, 3),
           "int16": ("h", 2, 4), "uint16": ("H", 2, 5), "int32": ("i", 4, 6), "uint32": ("I", 4, 7), "int64": ("q", 8, 8),
           "uint64": ("Q", 8, 9), "float32": ("f", 4, 10), "float64": ("d", 8, 11)}  # fmt: skip
FIELD = re.compile(r"([\w/]+)(<=\d+)?(\[(<=)?(\d*)\])? (\w+)(?:=(\S+))?")
NESTED, STRING, BOUNDED_STRING, ARRAY, BOUNDED, UNBOUNDED = 1, 17, 21, 48, 96, 144


class Field(NamedTuple):
    """kind: a number's name, "string", or an interface. many: "" for one value, "array" for `count` values, "sequence"
    for any number, at most `count` where that is above 0. chars: the longest string, 0 without a bound."""

    name: str
    kind: str
    many: str = ""
    count: int = 0
    chars: int = 0
    default: float | None = None


class UnknownInterface(KeyError):
    """An interface that is not described here; the message lists what is."""


@cache
def described() -> dict[str, tuple[Field, ...]]:
    """All interfaces by name, as "sensor_msgs/msg/Image"."""
    lines = [*INTERFACES.strip().splitlines(), *_own()]
    actions = [line.partition("_Goal:")[0] for line in lines if "_Goal:" in line]
    lines += [made for name in actions for made in ACTION.format(name).strip().splitlines()]
    parts = (line.partition(":") for line in lines)
    return {name: tuple(_field(text.strip()) for text in fields.split(",") if text.strip()) for name, _, fields in parts}


def _own() -> list[str]:
    """The files of soma_msgs, in the form of INTERFACES."""
    lines = [f"soma_msgs/msg/{file.stem}: {_listed(file.read_text())}" for file in sorted(OWN.glob("msg/*.msg"))]
    for file in sorted(OWN.glob("action/*.action")):
        name, parts = f"soma_msgs/action/{file.stem}", re.split("^---$", file.read_text(), flags=re.M)
        lines += [f"{name}_{part}: {_listed(text)}" for part, text in zip(("Goal", "Result", "Feedback"), parts, strict=True)]
    return lines


def _listed(text: str) -> str:
    """The fields of a .msg file, without its comments; "std_msgs/Header" is short for "std_msgs/msg/Header"."""
    lines = (re.sub(r"^(\w+)/(\w+)(?=\W)", r"\1/msg/\2", line.partition("#")[0].strip()) for line in text.splitlines())
    return ", ".join(re.sub(r"\s+", " ", line) for line in lines if line)


def _field(text: str) -> Field:
    kind, chars, brackets, bound, count, name, default = FIELD.fullmatch(text).groups()
    many = "" if not brackets else "array" if count and not bound else "sequence"
    return Field(name, kind, many, int(count or 0), int((chars or "<=0")[2:]), None if default is None else float(default))


def fields(name: str) -> tuple[Field, ...]:
    """Raises UnknownInterface."""
    if name not in described():
        raise UnknownInterface(f"{name!r} is not described; described are {', '.join(described())}")
    return described()[name]


@cache
def message(name: str) -> type:
    """The class of an interface: a dataclass whose instances begin with ROS's defaults. Raises UnknownInterface."""
    parts = [(f.name, Any, field(default_factory=_beginning(f))) for f in fields(name)]
    return make_dataclass(name.rpartition("/")[2], parts, slots=True, namespace={"INTERFACE": name})


def _beginning(f: Field):
    """What makes a field's first value."""
    if f.many == "sequence" or (f.many == "array" and f.kind == "uint8"):
        return (lambda: bytes(f.count)) if f.kind in ("uint8", "byte") else _empty(f.kind)
    if f.many == "array":
        return lambda: array(NUMBERS[f.kind][0], [0] * f.count)
    if f.kind == "string":
        return str
    if f.kind == "bool":
        return bool
    if f.kind in NUMBERS:
        return lambda: (float if f.kind.startswith("float") else int)(f.default or 0)
    return lambda: message(f.kind)()


def _empty(kind: str):
    return list if kind not in NUMBERS or kind == "bool" else (lambda: array(NUMBERS[kind][0]))


# ---- the type hash


def type_hash(name: str) -> str:
    """RIHS01 of an interface: SHA-256 of its type description and those it refers to, as JSON (REP 2011, REP 2016;
    rosidl_generator_type_description)."""
    parts = sorted(_referred(name) - {name})
    whole = {"type_description": _description(name), "referenced_type_descriptions": [_description(p) for p in parts]}
    return "RIHS01_" + hashlib.sha256(json.dumps(whole, separators=(", ", ": ")).encode()).hexdigest()


def _referred(name: str) -> set[str]:
    """An interface and all that its fields are made of."""
    inner = {f.kind for f in fields(name) if "/" in f.kind}
    return {name}.union(*(_referred(kind) for kind in inner))


def _description(name: str) -> dict:
    listed = fields(name) or (Field("structure_needs_at_least_one_member", "uint8"),)
    return {"type_name": name, "fields": [{"name": f.name, "type": _type(f)} for f in listed]}


def _type(f: Field) -> dict:
    one = NUMBERS[f.kind][2] if f.kind in NUMBERS else NESTED if "/" in f.kind else BOUNDED_STRING if f.chars else STRING
    many = {"": 0, "array": ARRAY, "sequence": BOUNDED if f.count else UNBOUNDED}[f.many]
    return {"type_id": one + many, "capacity": f.count, "string_capacity": f.chars,
            "nested_type_name": f.kind if "/" in f.kind else ""}
