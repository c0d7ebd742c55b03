"""What holds for all tests."""

from hypothesis import settings

# A deadline is a timed assertion, and machines are slow at times.
settings.register_profile("gatehouse", deadline=None, print_blob=True)
settings.load_profile("gatehouse")
