"""What `gatehouse size` reads and writes: tokens, times and lists as they are typed, and where results go."""

import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from serve_app.cli.client import fail

_WIDE: Final = 200
_TOKENS: Final = re.compile(r"(\d+)(k?)")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|min|h)?")
_UNITS: Final = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, None: 1.0}
_LONGEST_S: Final = 366 * 86_400.0
_MOST: Final = 1_000_000

console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def tokens(text: str) -> int:
    """`500`, or `32k` for 32,768; `ValueError` for anything else and for nothing."""
    found = _TOKENS.fullmatch(text.strip().lower())
    count = int(found[1]) * (1024 if found[2] else 1) if found else 0
    if count < 1:
        raise ValueError(f"'{text}' is not a number of tokens, as 500 or 32k")
    return count


def duration_s(text: str) -> float:
    """`2s`, `50ms`, `5min`, `1h`, or a number of seconds, a year at most; `ValueError` for anything else."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"'{text}' is not a time, as 2s or 50ms")
    seconds = float(found[1]) * _UNITS[found[2]]
    if seconds > _LONGEST_S:
        raise ValueError(f"'{text}' is longer than a year")
    return seconds


def numbers(text: str) -> list[float]:
    """`1,2.5`: positive numbers up to a million with commas, at least one; `ValueError` for anything else."""
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"'{text}' is not a list of numbers with commas") from None
    if not found or not all(math.isfinite(each) and each > 0 for each in found):
        raise ValueError(f"'{text}' is not a list of positive numbers")
    if max(found) > _MOST:
        raise ValueError(f"'{text}' has a number above {_MOST:,}")
    return found


def whole(text: str) -> list[int]:
    """`10,50`: the same of whole numbers; `ValueError` for anything else."""
    found = numbers(text)
    if any(each != int(each) for each in found):
        raise ValueError(f"'{text}' is not a list of whole numbers")
    return [int(each) for each in found]


def write(file: Path, value: Mapping[str, Any]) -> None:
    """A JSON file, and a line that says so; where it cannot be written, one that says why, and status 1."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror or error}.")
    console.print(f"Written to {file}.", soft_wrap=True)
