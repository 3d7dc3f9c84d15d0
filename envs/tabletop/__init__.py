"""The tabletop world. On Linux it is drawn without a display, unless MUJOCO_GL says otherwise."""

import os
import sys
from ctypes.util import find_library

if sys.platform.startswith("linux") and "MUJOCO_GL" not in os.environ:  # read by mujoco when it is first imported
    found = [gl for gl, library in (("egl", "EGL"), ("osmesa", "OSMesa")) if find_library(library)]
    os.environ["MUJOCO_GL"] = found[0] if found else "glfw"
