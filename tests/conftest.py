"""Property tests without deadlines: a shared or small machine is slow, not wrong. Training on the CPU, where it is the same
bit for bit."""

import os
import shutil

import pytest
from hypothesis import settings

os.environ["ACCELERATE_USE_CPU"] = "true"
settings.register_profile("soma", deadline=None)
settings.load_profile("soma")


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """The dataset of tests/recorded.py, for reading; imported here, as the environment's tests run without what it needs."""
    from tests.recorded import original_set

    return original_set(tmp_path_factory.mktemp("demos") / "set")


@pytest.fixture
def dataset(original, tmp_path):
    """A copy of it, to change."""
    return shutil.copytree(original, tmp_path / "set")
