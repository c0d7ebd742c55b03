"""Reading a log without checking it: for people who want to look, not for evidence."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from deployments.audit.segment import Damage, read_frames, segment_paths
from deployments.ports import JsonValue


def read_records(directory: Path) -> Iterator[dict[str, JsonValue]]:
    """The records in order, up to the first place that cannot be read. A log being written may be read."""
    for path in segment_paths(directory):
        for found in read_frames(path.read_bytes()):
            if isinstance(found, Damage):
                return
            try:
                yield cast("dict[str, JsonValue]", json.loads(found.payload))
            except ValueError:
                return
