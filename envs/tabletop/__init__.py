"""The tabletop world. On Linux it is drawn without a display, unless MUJOCO_GL says otherwise."""

import os
import sys
from ctypes.util import find_library

if sys.platform.startswith("linux") and "MUJOCO_GL" not in os.environ:  # read by mujoco when it is first imported
    os.environ["MUJOCO_GL"] = next((gl for gl, lib in (("egl", "EGL"), ("osmesa", "OSMesa")) if find_library(lib)), "glfw")
