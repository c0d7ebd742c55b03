"""Prints what is installed here and named by none of the lock files given: `strangers.py LOCK...`.

Run with the environment's own Python. pip and the project itself are never strangers.
"""

import re
import sys
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

OWN = frozenset({"pip", "gatehouse-serving"})
PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==", re.MULTILINE)


def normalized(name: str) -> str:
    """A distribution's name in the form in which two spellings are equal (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(texts: Iterable[str]) -> frozenset[str]:
    """Normalized names pinned in the texts of lock files."""
    return frozenset(normalized(name) for text in texts for name in PIN.findall(text))


def strangers(installed: Iterable[str], texts: Iterable[str]) -> list[str]:
    """Installed names that no lock pins, sorted."""
    return sorted({normalized(name) for name in installed} - locked(texts) - OWN)


if __name__ == "__main__":
    names = [distribution.name for distribution in distributions()]
    print(" ".join(strangers(names, (Path(path).read_text(encoding="utf-8") for path in sys.argv[1:]))))
