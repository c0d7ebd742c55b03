"""When the last backup was made and the last restore was tried, for `gatehouse status`. A note, no evidence."""

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

LAST_FILE = "backups.json"


def note(state: Path, what: Literal["backup", "restore drill"], now_ms: int, where: str, *, good: bool) -> None:
    """Write it into the state directory. Where that cannot be done there is no note: the backup is good without."""
    file = state / LAST_FILE
    known: Mapping[str, Any] = {}
    with suppress(OSError, ValueError):
        found: object = json.loads(file.read_text(encoding="utf-8"))
        known = cast(Mapping[str, Any], found) if isinstance(found, dict) else {}
    said = {**known, what: {"at_ms": now_ms, "where": where, "good": good}}
    work = file.with_name(f".{LAST_FILE}.{secrets.token_hex(4)}")
    with suppress(OSError):
        work.write_text(json.dumps(said), encoding="utf-8")
        os.replace(work, file)
    with suppress(OSError):
        work.unlink(missing_ok=True)
