"""Property tests without deadlines: a shared or small machine is slow, not wrong. Training on the CPU, where it is the same
bit for bit."""

import os

from hypothesis import settings

from tests.recorded import dataset, original  # noqa: F401 fixtures

os.environ["ACCELERATE_USE_CPU"] = "true"
settings.register_profile("soma", deadline=None)
settings.load_profile("soma")
