"""Records on their way through the sink: what the writer has made durable, and who seals it into the tree."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """A durable record: its place, its canonical bytes and their RFC 6962 leaf hash (32 bytes)."""

    index: int
    payload: bytes
    leaf: bytes


@dataclass(frozen=True, slots=True)
class OpenedLog:
    """A log whose segments were read and are sound. `read(begin)` answers the records from index `begin` on."""

    directory: Path
    size: int
    epoch: int
    read: Callable[[int], Iterator[Entry]]


class Sealing(Protocol):
    """Who builds the tree over the log. The writer calls it; calls never overlap."""

    def open(self, log: OpenedLog) -> None:
        """Compare the log with every checkpoint that can be found, before anything is cut off or written.

        `CorruptLog` when it is shorter than one of them, or has another root.
        """
        ...

    def take(self, entries: Sequence[Entry]) -> None:
        """Records that are on disk now, on the writer's thread. Blocks while too many wait to be sealed.

        Never raises: a tree that cannot be built is a `failure` of the sealer's own.
        """
        ...
