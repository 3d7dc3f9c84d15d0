"""The simulated world of one episode: steps control periods and answers where things are and what touches what.

Positions in m and angles in rad in the base frame; the tool is the point between the finger tips (x, y, z, yaw).
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from envs.arm import Arm, JointState, fk, ik, pose_to_tool, tool_pose
from envs.tabletop.mjcf import DAMPING, PART, STIFFNESS, TIMESTEP, WITH_PART, model_xml
from envs.tabletop.scene import KINDS, Scene

GRIPPER_SPEED = 0.2  # m/s of opening
IMPACT_SPEED = 0.08  # m/s gained or lost within one time step: below it nothing is heard
IMPACT_GAP = 0.06  # s in which a thing is heard only once
LEAD = np.array(DAMPING) / np.array(STIFFNESS)  # s; times the velocity it cancels the servo's lag


@dataclass(frozen=True)
class Impact:
    """Something hit something: `impulse` in N s, materials as in scene.KINDS."""

    time: float
    position: np.ndarray
    materials: tuple[str, str]
    impulse: float


class World:
    """Physics of a Scene. `command` is the last commanded joint target, `time` in s from the start, `pushed_at`
    when a perturbation, not the agent, last moved the commanded tool."""

    def __init__(self, scene: Scene, arm: Arm, control_hz: float):
        self.scene, self.arm, self.period = scene, arm, 1.0 / control_hz
        self.items = {item.name: item for item in scene.items}
        self.model = mujoco.MjModel.from_xml_string(model_xml(scene, arm))
        self.data = mujoco.MjData(self.model)
        self._index()
        start = ik(arm, tool_pose(*scene.start), np.array(arm.home))
        self.command = JointState(0.0, start, arm.max_opening)
        self._begin(start, arm.max_opening)
        self.impacts: list[Impact] = []
        self.pushed_at = -np.inf

    def _index(self) -> None:
        model = self.model
        self._body = {item.name: model.body(item.name).id for item in self.scene.items}
        moving = [item.name for item in self.scene.items if item.kind in WITH_PART]
        self._parts = {name: model.joint(name + PART).qposadr[0] for name in moving}
        self._struck: dict[int, tuple[np.ndarray, int]] = {}  # body -> velocities before, and what struck it
        self._last_heard: dict[int, float] = {}
        self._fingers = tuple(model.body(f"finger_{side}").id for side in ("left", "right"))
        free = [item.name for item in self.scene.items if KINDS[item.kind].mass]
        bodies = [model.body(name) for name in (*free, *(name + PART for name in moving))]
        dofs = [b.dofadr[0] + np.arange(min(b.dofnum[0], 3)) for b in bodies]  # (D,) what moves the items, not what turns them
        self._dofs = np.concatenate([np.zeros(0, int), *dofs])
        self._owners = model.dof_bodyid[self._dofs]

    def _begin(self, q: np.ndarray, opening: float) -> None:
        self.data.qpos[:7], self.data.qpos[7:9] = q, opening / 2
        for name, address in self._parts.items():
            self.data.qpos[address] = self.items[name].slid
        self._reference, self._opening = np.array(q), opening
        self.data.ctrl[:7], self.data.ctrl[7] = q, opening
        mujoco.mj_forward(self.model, self.data)
        self._touching = None

    # ---- motion

    def step(self, command: JointState, push: bool = False) -> None:
        """One control period: the joint target moves linearly from the last command to this one. `push`: a
        perturbation wants it so."""
        data, n = self.data, round(self.period / TIMESTEP)
        start, lead = self._reference, LEAD * (command.position - self._reference) / self.period
        self.impacts, before = [], data.qvel[self._dofs]
        for i in range(n):
            data.ctrl[:7] = start + (command.position - start) * ((i + 1) / n) + lead
            reach = GRIPPER_SPEED * TIMESTEP
            self._opening += min(max(command.opening - self._opening, -reach), reach)
            data.ctrl[7] = self._opening
            mujoco.mj_step(self.model, data)
            before = self._hear(before)
        self._reference, self.command, self._touching = np.array(command.position), command, None
        mujoco.mj_forward(self.model, data)
        if push:
            self.pushed_at = self.time

    def _hear(self, before: np.ndarray) -> np.ndarray:
        """Follow what is struck, by the velocities (D,) before this time step; gives those of now."""
        now = self.data.qvel[self._dofs]
        jumping = set(self._owners[np.abs(now - before) > IMPACT_SPEED].tolist())
        for body in sorted(jumping - self._struck.keys()):
            striker = self._striker(body)
            if striker is not None:
                self._struck[body] = before, striker
        for body in sorted(self._struck.keys() - jumping):
            self._add_impact(body, now, *self._struck.pop(body))
        return now

    def _striker(self, body: int) -> int | None:
        """Of what closes on a body fast, that which presses hardest; None for nothing, and for what the hand that holds it
        does: it is jerked, not hit."""
        data, contact = self.data, self.data.contact
        pairs = self.model.geom_bodyid[contact.geom].reshape(-1, 2)
        mine = (pairs == body).any(1)
        others, rows = pairs[mine].sum(1) - body, contact.efc_address[mine]  # rows of the contacts' normals
        hits = data.efc_vel[rows] < -IMPACT_SPEED
        if np.isin(self._fingers, others).all():
            hits &= ~np.isin(others, self._fingers)
        force = np.bincount(others[hits], data.efc_force[rows][hits])
        return int(force.argmax()) if hits.any() else None

    def _add_impact(self, body: int, now: np.ndarray, before: np.ndarray, striker: int) -> None:
        """The contacts' impulse is the mass times the change of velocity over all the time steps with a jump."""
        if self.time - self._last_heard.get(body, -np.inf) < IMPACT_GAP:
            return
        self._last_heard[body] = self._last_heard[striker] = self.time
        own = self._owners == body
        impulse = float(self.model.dof_M0[self._dofs[own][0]] * np.linalg.norm((now - before)[own]))
        materials = (self._material(body), self._material(striker))
        self.impacts.append(Impact(self.time, self.data.xpos[body].copy(), materials, impulse))

    def _material(self, body: int) -> str:
        name = self.model.body(body).name.removesuffix(PART)
        return KINDS[self.items[name].kind].material if name in self.items else ("metal" if body else "wood")

    # ---- the arm

    @property
    def time(self) -> float:
        return self.data.time

    @property
    def joints(self) -> np.ndarray:
        return self.data.qpos[:7].copy()

    @property
    def opening(self) -> float:
        """Measured distance between the fingers, m."""
        return float(self.data.qpos[7] + self.data.qpos[8])

    @property
    def blocked(self) -> float:
        """How much wider than they are the fingers are told to be, m: far above 0, something keeps them from opening;
        far below 0, something is between them."""
        return self._opening - self.opening

    @property
    def tool(self) -> np.ndarray:
        """Measured tool pose (x, y, z, yaw)."""
        return np.array(pose_to_tool(fk(self.arm, self.data.qpos[:7])))

    @property
    def target(self) -> np.ndarray:
        """Last commanded tool pose (x, y, z, yaw)."""
        return np.array(pose_to_tool(fk(self.arm, self.command.position)))

    @property
    def wrist_force(self) -> np.ndarray:
        """Force (3,) of the hand on the wrist in the hand's frame, N."""
        return self.data.sensor("wrist_force").data.copy()

    # ---- the items

    def position(self, name: str) -> np.ndarray:
        """Centre of an item (3,)."""
        return self.data.xpos[self._body[name]]

    def rotation(self, name: str) -> np.ndarray:
        """The item's axes in the base frame, as columns (3, 3)."""
        return self.data.xmat[self._body[name]].reshape(3, 3)

    def pressed(self, name: str) -> float:
        """How far a button or buzzer is pushed down, m."""
        return float(max(-self.data.qpos[self._parts[name]], 0.0))

    def slid(self, name: str) -> float:
        """How far a drawer is out, m."""
        return float(self.data.qpos[self._parts[name]])

    def part(self, name: str) -> np.ndarray:
        """Origin of an item's moving part (3,): a drawer's is between its front and its tab, at the table's height."""
        return self.data.xpos[self.model.body(name + PART).id]

    def velocity(self, name: str) -> np.ndarray:
        """Of the centre of a free item (3,), m/s."""
        first = self.model.body(name).dofadr[0]
        return self.data.qvel[first : first + 3].copy()

    def touching(self, name: str) -> bool:
        """The item touches a finger."""
        return any((self._body[name], finger) in self._contacts() for finger in self._fingers)

    def held(self, name: str) -> bool:
        """Both fingers touch the item: it is between them, or pushed by both."""
        return all((self._body[name], finger) in self._contacts() for finger in self._fingers)

    def in_contact(self, name: str, other: str) -> bool:
        return (self._body[name], self._body[other]) in self._contacts()

    def _contacts(self) -> set[tuple[int, int]]:
        if self._touching is None:
            self._touching = set(self._contact_pairs())
        return self._touching

    def _contact_pairs(self) -> list[tuple[int, int]]:
        """Pairs of bodies in contact, each in both orders."""
        bodies = self.model.geom_bodyid[self.data.contact.geom].reshape(-1, 2).tolist()
        return [(a, b) for a, b in bodies] + [(b, a) for a, b in bodies]
