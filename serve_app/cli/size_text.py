"""What `gatehouse size` reads and writes: tokens, times and lists as they are typed, and where results go."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console

_WIDE: Final = 200
_TOKENS: Final = re.compile(r"(\d+)(k?)")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|min|h)?")
_UNITS: Final = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, None: 1.0}

console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def tokens(text: str) -> int:
    """`500`, or `32k` for 32,768; `ValueError` for anything else and for nothing."""
    found = _TOKENS.fullmatch(text.strip().lower())
    count = int(found[1]) * (1024 if found[2] else 1) if found else 0
    if count < 1:
        raise ValueError(f"'{text}' is not a number of tokens, as 500 or 32k")
    return count


def duration_s(text: str) -> float:
    """`2s`, `50ms`, `5min`, `1h`, or a number of seconds; `ValueError` for anything else."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"'{text}' is not a time, as 2s or 50ms")
    return float(found[1]) * _UNITS[found[2]]


def numbers(text: str) -> list[float]:
    """`1,2.5`: positive numbers with commas, at least one; `ValueError` for anything else."""
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"'{text}' is not a list of numbers with commas") from None
    if not found or min(found) <= 0:
        raise ValueError(f"'{text}' is not a list of positive numbers")
    return found


def write(file: Path, value: Mapping[str, Any]) -> None:
    """A JSON file, and a line that says so."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    console.print(f"Written to {file}.", soft_wrap=True)
