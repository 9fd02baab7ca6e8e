"""For all tests."""

from hypothesis import HealthCheck, settings

# An example that takes long on a busy machine says nothing about the code; a test as a whole has its time limit.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
