"""A cut in the network between a process of one machine and some other machines, by rules of their routing."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

from tests.resilience.nodes import Machine

_LISTEN = "0A"  # of /proc/net/tcp


class Cut:
    """While it is open, packets between `others` and the ports on which `process` listens go nowhere.

    Connections stay open on both sides, and nobody is told: the silence of a network that lost a route. New ones are
    refused. `only_answers`: what is sent to the process arrives, and nothing that it says comes back.
    """

    def __init__(
        self, machine: Machine, process: psutil.Process, others: Sequence[Machine], *, only_answers: bool = False
    ) -> None:
        ports = sorted(listening(process.pid))
        assert ports, "the process listens nowhere"
        self._rules = [
            (machine.name, ["to", f"{other.address}/32", "ipproto", "tcp", "sport", str(port), "blackhole"])
            for other in others
            for port in ports
        ]
        if not only_answers:
            self._rules += [
                (other.name, ["to", f"{machine.address}/32", "ipproto", "tcp", "dport", str(port), "blackhole"])
                for other in others
                for port in ports
            ]

    def __enter__(self) -> "Cut":
        """Drop from now on."""
        for where, rule in self._rules:
            _rule(where, "add", rule)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let everything through again."""
        for where, rule in self._rules:
            _rule(where, "del", rule)


def listening(pid: int) -> set[int]:
    """TCP ports on which a process listens, in the network of the process, which psutil does not look into."""
    own = set[str]()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed by now
            own.add(entry.readlink().name)
    found = set[int]()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and f"socket:[{fields[9]}]" in own:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def _rule(where: str, verb: str, rule: Sequence[str]) -> None:
    subprocess.run(
        ["ip", "-n", where, "rule", verb, *rule], check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=30
    )
