"""Property tests without deadlines: a shared or small machine is slow, not wrong."""

from hypothesis import settings

settings.register_profile("soma", deadline=None)
settings.load_profile("soma")
