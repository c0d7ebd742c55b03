"""The graph of the tier `serve`, started once more for what stops, kills and degrades it."""

from tests.serve import conftest

prepared, stack = conftest.prepared, conftest.stack
