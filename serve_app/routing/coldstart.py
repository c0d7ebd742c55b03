"""The committed cold-start snapshot: the difficulty signal of an installation that has no labels of its own yet.

It orders turns and never acts by itself. Where it comes from, the licences of its rows and its figures lie beside it.
"""

import functools
from importlib import resources
from pathlib import Path
from typing import Final

from router.snapshot import Snapshot, parse

_NAME: Final = "difficulty-v1"


def cold_start_bytes() -> bytes:
    """The snapshot file as committed."""
    return resources.files("serve_app.routing").joinpath("cold_start", f"{_NAME}.snapshot").read_bytes()


@functools.cache
def cold_start() -> Snapshot:
    """The snapshot, parsed once."""
    return parse(cold_start_bytes())


def read_snapshot(file: Path) -> Snapshot:
    """The snapshot in `file`; `OSError` or `router.snapshot.SnapshotError`."""
    return parse(file.read_bytes())
