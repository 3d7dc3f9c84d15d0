"""Does a robot touch itself or what stands fixed around it? By its MuJoCo model, without simulating anything."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np


class Body:
    """Distances between the parts of a robot, and between them and fixed geoms, at given joint angles.

    joints: names of the joints that are set, in order; the others stay where the model has them. fixed: names of geoms
    that the robot must not touch either. Neighbours in the chain and parts that are closer than `clearance` (m) at
    `home` (J,) may touch. Raises ValueError for a name that the model does not have.
    """

    def __init__(self, model: mujoco.MjModel, joints: Sequence[str], home: Sequence[float], fixed: Sequence[str] = (),
                 clearance: float = 0.002):
        ids = _named(model, mujoco.mjtObj.mjOBJ_JOINT, joints)
        self.model, self.data, self.clearance = model, mujoco.MjData(model), clearance
        self.places = model.jnt_qposadr[ids]
        own = self._own(int(model.jnt_bodyid[ids[0]]))
        pairs = [(a, b) for i, a in enumerate(own) for b in own[i + 1 :]]
        pairs += [(a, b) for a in own for b in _named(model, mujoco.mjtObj.mjOBJ_GEOM, fixed)]
        self.pairs = [pair for pair in pairs if not self._neighbours(*pair)]
        self._set(home)
        self.pairs = [pair for pair in self.pairs if self.distance(*pair) > clearance]
        radius = np.where(model.geom_rbound > 0.0, model.geom_rbound, np.inf)  # 0: a plane's
        self.ends = np.array(self.pairs, int).reshape(-1, 2).T
        self.reach = radius[self.ends].sum(0) + 2 * clearance  # m between centres from which on nothing can be too close

    def __call__(self, q: np.ndarray) -> str:
        """The two parts that are closest at joint angles (J,), if they are closer than the clearance, else ""."""
        return self.closest(q)[1]

    def closest(self, q: np.ndarray) -> tuple[float, str]:
        """By how much (m) all that may not touch is further apart than the clearance (at most the clearance; below 0
        something is too close), and which two parts are too close, "" for none."""
        self._set(q)
        one, other = self.data.geom_xpos[self.ends]
        near = np.flatnonzero(np.square(one - other).sum(1) <= self.reach**2).tolist()
        gap, pair = min(((self.distance(*self.pairs[i]), self.pairs[i]) for i in near), default=(2 * self.clearance, None))
        room = gap - self.clearance
        return room, " and ".join(map(self._part, pair)) if room < 0 else ""

    def distance(self, one: int, other: int) -> float:
        """Between two geoms, m, at most twice the clearance."""
        return mujoco.mj_geomDistance(self.model, self.data, one, other, 2 * self.clearance, None)

    def _set(self, q) -> None:
        self.data.qpos[self.places] = q
        mujoco.mj_kinematics(self.model, self.data)

    def _own(self, first: int) -> list[int]:
        """The robot's geoms, from body `first` on: of each body those that collide, all of them where none does."""
        bodies, model, found = range(self.model.nbody), self.model, []
        for body in (b for b in bodies if first in self._line(b)):
            geoms = np.flatnonzero(model.geom_bodyid == body).tolist()
            solid = [g for g in geoms if model.geom_contype[g] or model.geom_conaffinity[g]]
            found += solid or geoms
        return found

    def _line(self, body: int) -> list[int]:
        """A body and those that carry it, down to the world."""
        line = [int(body)]
        while line[-1]:
            line.append(int(self.model.body_parentid[line[-1]]))
        return line

    def _neighbours(self, one: int, other: int) -> bool:
        """Parts that no joint, or one, holds together."""
        a, b = (self.model.body_weldid[self.model.geom_bodyid[g]] for g in (one, other))
        carry = [self.model.body_weldid[self.model.body_parentid[x]] for x in (a, b)]
        return bool(a == b or carry[0] == b or carry[1] == a)

    def _part(self, geom: int) -> str:
        body = self.model.body(self.model.geom_bodyid[geom]).name
        return self.model.geom(geom).name or body or "the world"


def _named(model: mujoco.MjModel, kind: mujoco.mjtObj, names: Sequence[str]) -> list[int]:
    ids = [mujoco.mj_name2id(model, kind, name) for name in names]
    if -1 in ids:
        what = kind.name.removeprefix("mjOBJ_").lower()
        count = {"joint": model.njnt, "geom": model.ngeom}[what]
        known = [name for name in (mujoco.mj_id2name(model, kind, i) for i in range(count)) if name]
        raise ValueError(f"{what} {names[ids.index(-1)]!r}: the model has {', '.join(known)}")
    return ids
