"""Cheap offscreen images: one GL context a process, no shadows, reflections or multisampling.

One MjrContext serves every model, because all of them carry the same assets and visual settings (mjcf.HEAD).
"""

from __future__ import annotations

import importlib
import os
import sys

import mujoco
import numpy as np

from envs.tabletop.mjcf import MAX_IMAGE

_MAX_GEOMS = 300


def gl_context():
    """The kind of context that MUJOCO_GL names now. mujoco itself has settled on one when it was imported, which may
    have been before envs.tabletop found out what this machine has."""
    name = os.environ.get("MUJOCO_GL", "")
    if sys.platform.startswith("linux") and name in ("egl", "osmesa", "glfw"):
        return importlib.import_module(f"mujoco.{name}").GLContext
    return mujoco.GLContext


class _Graphics:
    """The process's GL context; made on first use, so that importing and lazy episodes need no GL."""

    def __init__(self, model: mujoco.MjModel):
        self.process = os.getpid()
        self.gl = gl_context()(MAX_IMAGE, MAX_IMAGE)
        self.gl.make_current()
        self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)


_graphics: _Graphics | None = None


def _shared(model: mujoco.MjModel) -> _Graphics:
    global _graphics
    if _graphics is None:
        _graphics = _Graphics(model)
    if _graphics.process != os.getpid():
        raise RuntimeError("pictures were drawn before this process was forked, and OpenGL does not survive that: start it anew, "
                           'as gym.make_vec(..., vector_kwargs={"context": "spawn"}) does')
    _graphics.gl.make_current()
    return _graphics


class Renderer:
    """Images of one model."""

    def __init__(self, model: mujoco.MjModel):
        self.model = model
        self.scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self.option = mujoco.MjvOption()
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_HAZE):
            self.scene.flags[flag] = 0

    def image(self, data: mujoco.MjData, camera: str, height: int, width: int) -> np.ndarray:
        """RGB uint8 (height, width, 3)."""
        rgb = np.empty((height, width, 3), np.uint8)
        self._draw(data, camera, rgb, None)
        return np.ascontiguousarray(rgb[::-1])

    def depth(self, data: mujoco.MjData, camera: str, height: int, width: int) -> np.ndarray:
        """Distance along the camera's axis, m, float32 (height, width)."""
        z = np.empty((height, width), np.float32)
        self._draw(data, camera, None, z)
        extent = self.model.stat.extent
        near, far = self.model.vis.map.znear * extent, self.model.vis.map.zfar * extent
        return np.ascontiguousarray((near / (1.0 - z * (1.0 - near / far)))[::-1])

    def _draw(self, data, camera, rgb, depth) -> None:
        height, width = (rgb if rgb is not None else depth).shape[:2]
        graphics = _shared(self.model)
        view = mujoco.MjvCamera()
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, self.model.camera(camera).id
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self.model, data, self.option, None, view, everything, self.scene)
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, self.scene, graphics.context)
        mujoco.mjr_readPixels(rgb, depth, viewport, graphics.context)


def project(model: mujoco.MjModel, data: mujoco.MjData, camera: str, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) in the base frame -> (N, 2): u (right) and v (down) in a square image, 0..1; -1 where outside."""
    index = model.camera(camera).id
    local = (points - data.cam_xpos[index]) @ data.cam_xmat[index].reshape(3, 3)  # x right, y up, looks along -z
    depth = np.maximum(-local[:, 2], 1e-6)
    scale = 2 * np.tan(np.radians(model.cam_fovy[index]) / 2)
    uv = np.stack([0.5 + local[:, 0] / depth / scale, 0.5 - local[:, 1] / depth / scale], 1)
    inside = (local[:, 2] < 0) & (uv >= 0).all(1) & (uv < 1).all(1)
    return np.where(inside[:, None], uv, -1.0)
