"""A Scene and an Arm as a MuJoCo model in MJCF, of primitive shapes only.

Arm links collide with nothing (the tool points down, above the table); the hand and the fingers collide with everything.
Geoms of an item are in the body of its name; the moving part of a button, buzzer or drawer is the body NAME_part.
"""

from __future__ import annotations

import numpy as np

from envs.arm import FLANGE_TO_TCP, HAND_YAW, Arm
from envs.tabletop.scene import DRAWER_TRAVEL, KINDS, Item, Look, Scene, half_depth

TIMESTEP = 0.004  # s
MAX_IMAGE = 640  # pixels a side
FLANGE = 0.107  # m from the last joint's frame to the hand's
PRESS_TRAVEL = 0.012  # m that a button or buzzer can be pushed down
PART = "_part"  # ends the name of an item's moving body, and of its joint
WITH_PART = ("button", "buzzer", "drawer")
WALL = 0.004  # m, of a drawer
HOOK = 0.050  # m between a drawer's front and the tab that it is pulled by
ROLLS = 'condim="6" friction="0.8 0.005 0.001"'  # rolling friction stops what rolls
WALLS = 12  # boxes in the ring of a bowl, capsules in that of a plate

LINKS = (  # (mass kg, capsules (from xyz, to xyz, radius)) of links 1..7 in their own frames
    (4.0, (((0, 0, -0.19), (0, 0, 0), 0.060),)),
    (2.0, (((0, 0, 0), (0, -0.18, 0), 0.058),)),
    (3.0, (((0, 0, -0.10), (0, 0, 0), 0.055), ((0, 0, 0), (0.0825, 0, 0), 0.050))),
    (3.0, (((0, 0, 0), (-0.0825, 0.08, 0), 0.050), ((-0.0825, 0.08, 0), (-0.0825, 0.26, 0), 0.048))),
    (2.0, (((0, 0, -0.12), (0, 0, 0), 0.048),)),
    (1.4, (((0, 0, 0), (0.088, 0, 0), 0.046),)),
    (0.7, (((0, 0, 0), (0, 0, 0.075), 0.042),)),
)
STIFFNESS = (6000, 6000, 5000, 5000, 1500, 1500, 1000)  # Nm/rad
DAMPING = (220, 260, 160, 160, 40, 40, 24)  # Nm s/rad
TORQUE = (261, 261, 261, 261, 36, 36, 36)  # Nm, three times a Franka's: the simulated servo must never be what slips

HEAD = """
<option timestep="{timestep}" integrator="implicitfast" cone="elliptic" impratio="10"/>
<size memory="4M"/>
<visual>
 <global offwidth="{image}" offheight="{image}"/><quality shadowsize="0" offsamples="0" numslices="16" numstacks="10" numquads="1"/>
 <headlight ambient="{ambient}" diffuse="{diffuse}" specular="0 0 0"/><map znear="0.02" zfar="10"/>
</visual>
<asset><texture name="sky" type="skybox" builtin="gradient" rgb1="0.55 0.70 0.85" rgb2="0.85 0.88 0.92" width="32"
 height="192"/></asset>
<default>
 <geom friction="0.8 0.005 0.0002" solref="0.01 1"/>
 <default class="visual"><geom contype="0" conaffinity="0" group="1" rgba="0.93 0.93 0.94 1"/></default>
 <default class="finger"><geom type="box" size="0.009 0.006 0.028" pos="0 0.006 0.0844" friction="1.6 0.02 0.0002"
  condim="4" priority="1" solref="0.008 1" solimp="0.95 0.99 0.001" mass="0.03" rgba="0.15 0.15 0.17 1"/></default>
</default>
"""


def model_xml(scene: Scene, arm: Arm) -> str:
    look = scene.look
    head = HEAD.format(timestep=TIMESTEP, image=MAX_IMAGE, ambient=_v([0.40 * look.brightness] * 3), diffuse=_v([0.22 * look.brightness] * 3))
    world = _surroundings(look) + _arm(arm) + "".join(_item(item) for item in scene.items)
    apart = "".join(f'<exclude body1="{i.name}" body2="{i.name}{PART}"/>' for i in scene.items if i.kind in WITH_PART)
    return (
        f'<mujoco model="tabletop">{head}<worldbody>{world}</worldbody><contact>{apart}</contact>{_actuators(arm)}</mujoco>'
    )


def _surroundings(look: Look) -> str:
    position = np.array((1.15, 0.0, 0.82)) + look.camera_shift
    target = np.array((0.435, 0.0, 0.01)) + look.look_shift
    light = _v([0.48 * look.brightness] * 3)
    return (
        f'<light directional="true" castshadow="false" dir="{_v(look.light_direction)}" diffuse="{light}" specular="0.1 0.1 0.1"/>'
        f'<geom name="table" type="plane" size="0.6 0.6 0.1" pos="0.25 0 0" rgba="{_v(look.table_rgb)} 1"/>'
        f'<camera name="front" pos="{_v(position)}" xyaxes="{_v(look_at(position, target))}" fovy="35.5"/>'
    )


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The camera's x and y axes (6,) in the base frame: it looks along its -z, with the base's z up in the image."""
    back = (position - target) / np.linalg.norm(position - target)
    right = np.cross((0.0, 0.0, 1.0), back)
    right /= np.linalg.norm(right)
    return np.concatenate([right, np.cross(back, right)])


def _arm(arm: Arm) -> str:
    """The chain of bodies from modified Denavit-Hartenberg rows (Craig): Rx(alpha) Tx(a) Rz(q) Tz(d)."""
    text = '<geom name="base" class="visual" type="capsule" fromto="0 0 0.02 0 0 0.15" size="0.075"/>'
    for i, (a, d, cosine, sine) in enumerate(arm.dh):
        mass, capsules = LINKS[i]
        turn = (np.degrees(np.arctan2(sine, cosine)), 0, 0)
        text += f'<body name="link_{i + 1}" pos="{_v((a, -sine * d, cosine * d))}" euler="{_v(turn)}" gravcomp="1">'
        text += f'<joint name="joint_{i + 1}" range="{_v(np.degrees((arm.q_min[i], arm.q_max[i])))}" armature="0.1"/>'
        for start, end, radius in capsules:
            text += f'<geom class="visual" type="capsule" fromto="{_v(start + end)}" size="{radius}" mass="{mass / len(capsules)}"/>'
    return text + _hand(arm) + "</body>" * len(arm.dh)


def _hand(arm: Arm) -> str:
    half = arm.max_opening / 2
    fingers = "".join(
        f'<body name="finger_{side}" gravcomp="1" euler="0 0 {turn}"><joint name="finger_{side}" type="slide" axis="0 1 0" '
        f'range="0 {half}" armature="0.02" damping="1"/><geom class="finger" name="pad_{side}"/></body>'
        for side, turn in (("left", 0), ("right", 180))
    )
    return (
        f'<body name="hand" pos="0 0 {FLANGE}" euler="0 0 {np.degrees(HAND_YAW)}" gravcomp="1">'
        '<geom name="palm" type="box" size="0.018 0.088 0.028" pos="0 0 0.028" mass="0.6" rgba="0.80 0.80 0.82 1"/>'
        f'<site name="tool" group="4" pos="0 0 {FLANGE_TO_TCP - FLANGE}"/><site name="wrist_force" group="4"/>'
        f'<camera name="wrist" pos="0.085 0 -0.01" xyaxes="0 1 0 0.97 0 0.242" fovy="76"/>{fingers}</body>'
    )


def _actuators(arm: Arm) -> str:
    joints = "".join(
        f'<general name="joint_{i + 1}" joint="joint_{i + 1}" gainprm="{k}" biastype="affine" biasprm="0 {-k} {-b}" '
        f'forcerange="{-t} {t}"/>'
        for i, (k, b, t) in enumerate(zip(STIFFNESS, DAMPING, TORQUE))
    )
    return (
        '<tendon><fixed name="opening"><joint joint="finger_left" coef="1"/><joint joint="finger_right" coef="1"/></fixed></tendon>'
        '<equality><joint joint1="finger_left" joint2="finger_right" polycoef="0 1 0 0 0" solref="0.008 1"/></equality>'
        f'<actuator>{joints}<general name="gripper" tendon="opening" gainprm="1500" biastype="affine" biasprm="0 -1500 -20" '
        'forcerange="-25 25"/></actuator>'
        '<sensor><force name="wrist_force" site="wrist_force"/></sensor>'
    )


def _item(item: Item) -> str:
    mass = KINDS[item.kind].mass
    free = '<freejoint/>' if mass else ""
    shape = SHAPES[item.kind](item, f'rgba="{_v(item.rgb)} 1"', mass)
    return f'<body name="{item.name}" pos="{_v(item.position)}" euler="0 0 {np.degrees(item.yaw)}">{free}{shape}</body>'


def _cube(item: Item, rgba: str, mass: float) -> str:
    return f'<geom type="box" size="{_v((item.radius, item.radius, item.height / 2))}" mass="{mass}" {rgba}/>'


def _box(item: Item, rgba: str, mass: float) -> str:
    """A closed cardboard box: longer than wide, with a pale strip of tape over the lid."""
    size = (1.3 * item.radius, item.radius, item.height / 2)
    tape = (1.3 * item.radius + 0.0005, 0.25 * item.radius, item.height / 2 + 0.0005)
    return (
        f'<geom type="box" size="{_v(size)}" mass="{mass}" {rgba}/>'
        f'<geom class="visual" type="box" size="{_v(tape)}" mass="0" rgba="0.85 0.80 0.70 1"/>'
    )


def _cylinder(item: Item, rgba: str, mass: float) -> str:
    return f'<geom type="cylinder" size="{_v((item.radius, item.height / 2))}" mass="{mass}" {ROLLS} {rgba}/>'


def _ball(item: Item, rgba: str, mass: float) -> str:
    return f'<geom type="sphere" size="{item.radius}" mass="{mass}" {ROLLS} {rgba}/>'


def _bowl(item: Item, rgba: str, mass: float) -> str:
    """A floor and a ring of boxes that lean outwards; `radius` is that of the rim."""
    lean, half = 18.0, item.height / 2
    mean = item.radius - half * np.tan(np.radians(lean))
    width = (item.radius + 0.004) * np.tan(np.pi / WALLS)
    text = f'<geom type="cylinder" size="{_v((mean - half * np.tan(np.radians(lean)) + 0.002, 0.003))}" pos="0 0 {0.003 - half}" mass="{0.5 * mass}" {rgba}/>'
    for k in range(WALLS):
        angle = 2 * np.pi * k / WALLS
        where = (mean * np.cos(angle), mean * np.sin(angle), 0)
        turn = (0, lean, np.degrees(angle))
        text += (
            f'<geom type="box" size="{_v((0.003, width, half))}" pos="{_v(where)}" quat="{_v(_zy(*turn[1:]))}" '
            f'mass="{0.5 * mass / WALLS}" {rgba}/>'
        )
    return text


def _plate(item: Item, rgba: str, mass: float) -> str:
    """A disc with a raised rim."""
    text = f'<geom type="cylinder" size="{_v((item.radius, 0.003))}" pos="0 0 {0.003 - item.height / 2}" mass="{0.5 * mass}" {rgba}/>'
    for k in range(WALLS):
        ends = [2 * np.pi * (k + s) / WALLS for s in (0, 1)]
        path = [v for e in ends for v in (item.radius * np.cos(e), item.radius * np.sin(e), item.height / 2 - 0.004)]
        text += f'<geom type="capsule" fromto="{_v(path)}" size="0.004" mass="{0.5 * mass / WALLS}" {rgba}/>'
    return text


def _button(item: Item, rgba: str, mass: float) -> str:
    """A grey base with a flat coloured cap that gives way."""
    base = item.height - PRESS_TRAVEL - 0.004
    cap = f'<geom type="cylinder" size="{_v((0.8 * item.radius, 0.008))}" mass="0.03" {rgba}/>'
    return _base("cylinder", item, base, "0.25 0.25 0.27 1") + _cap(item, item.height / 2 - 0.008, cap)


def _buzzer(item: Item, rgba: str, mass: float) -> str:
    """A dark box with a coloured dome that gives way."""
    dome, wide = 0.018, 0.85 * item.radius
    cap = f'<geom type="ellipsoid" size="{_v((wide, wide, dome))}" mass="0.03" {rgba}/>'
    return _base("box", item, item.height - dome, "0.18 0.18 0.20 1") + _cap(item, item.height / 2 - dome, cap)


def _base(shape: str, item: Item, height: float, rgba: str) -> str:
    size = (item.radius, height / 2) if shape == "cylinder" else (item.radius, item.radius, height / 2)
    return f'<geom type="{shape}" size="{_v(size)}" pos="0 0 {(height - item.height) / 2}" rgba="{rgba}"/>'


def _cap(item: Item, z: float, geom: str) -> str:
    return (
        f'<body name="{item.name}{PART}" pos="0 0 {z}" gravcomp="1"><joint name="{item.name}{PART}" type="slide" axis="0 0 1" '
        f'range="{-PRESS_TRAVEL} 0" limited="true" stiffness="250" damping="5" armature="0.01"/>{geom}</body>'
    )


def _square(item: Item, rgba: str, mass: float) -> str:
    """A coloured mark on the table; nothing touches it."""
    size = (item.radius, item.radius, item.height / 2)
    return f'<geom type="box" contype="0" conaffinity="0" size="{_v(size)}" {rgba}/>'


def _drawer(item: Item, rgba: str, mass: float) -> str:
    """A chest without a bottom, open to its +x, and a tray in it with a front and, `HOOK` before that, an upright tab.

    The origin of the tray's body is the middle of the gap between front and tab, at the table's height.
    """
    half, depth, top = item.radius, half_depth(item), item.height / 2
    wood = 'rgba="0.55 0.42 0.30 1"'
    chest = _plank((-depth, 0, 0), (WALL / 2, half, top), wood) + _plank((0, 0, top), (depth, half, WALL / 2), rgba)
    chest += "".join(_plank((0, side * half, 0), (depth, WALL / 2, top), wood) for side in (-1, 1))
    gap = depth + HOOK / 2
    return (
        f'{chest}<body name="{item.name}{PART}" pos="{gap} 0 {-top}" gravcomp="1">'
        f'<joint name="{item.name}{PART}" type="slide" axis="1 0 0" range="0 {DRAWER_TRAVEL}" limited="true" '
        f'frictionloss="1" damping="6" armature="0.05"/>{_tray(half - 0.006, depth, item.height, rgba)}</body>'
    )


def _tray(half: float, depth: float, height: float, rgba: str) -> str:
    pale, rim, front = 'rgba="0.86 0.80 0.70 1"', 0.019, height / 2 - 0.004
    middle, reach = -HOOK / 2 - depth, depth - 2 * WALL
    tray = _plank((middle, 0, 0.006), (reach, half, WALL / 2), pale) + _plank((middle - reach, 0, rim), (WALL / 2, half, rim - 0.004), pale)
    tray += "".join(_plank((middle, side * half, rim), (reach, WALL / 2, rim - 0.004), pale) for side in (-1, 1))
    tray += _plank((-HOOK / 2 - WALL / 2, 0, front + 0.002), (WALL / 2, half + 0.004, front), rgba)
    tray += _plank((0, 0, 0.014), (HOOK / 2, 0.008, 0.004), rgba)
    return tray + _plank((HOOK / 2 + WALL / 2, 0, 0.036), (WALL / 2, 0.028, 0.026), rgba)


def _plank(middle, size, rgba: str) -> str:
    return f'<geom type="box" pos="{_v(middle)}" size="{_v(size)}" mass="0.05" {rgba}/>'


SHAPES = {
    "cube": _cube, "cylinder": _cylinder, "ball": _ball, "bowl": _bowl, "plate": _plate, "button": _button,
    "buzzer": _buzzer, "box": _box, "drawer": _drawer, "square": _square,
}


def _zy(lean: float, angle: float) -> np.ndarray:
    """Quaternion (w, x, y, z) of a turn by `angle` about z after a lean about y, degrees."""
    a, b = np.radians(angle) / 2, np.radians(lean) / 2
    return np.array((np.cos(a) * np.cos(b), -np.sin(a) * np.sin(b), np.cos(a) * np.sin(b), np.sin(a) * np.cos(b)))


def _v(values) -> str:
    return " ".join(f"{float(v):.6g}" for v in values)
