"""Networks that end at this machine, and what was asked of them: namespaces, and strace's record of addresses."""

import ipaddress
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

# Nothing but the loopback interface, and no route to anywhere.
NO_WAY_OUT = "ip link set lo up"
# As on a machine with a network: an address, a route to everywhere, a name server that is asked. Every way ends at the
# loopback interface, so a program that would reach out does, and is seen, instead of giving up before.
EVERY_WAY_ENDS_HERE = (
    "ip link set lo up && ip address add 10.99.0.1/24 dev lo && ip route add local 0.0.0.0/0 dev lo && "
    "ip -6 route add local ::/0 dev lo"
)
TOOLS = ("unshare", "ip", "strace")

_ADDRESS = re.compile(r'sa_family=AF_INET6?,[^}]*?(?:inet_addr\("|inet_pton\(AF_INET6, ")([0-9a-fA-F:.]+)"')


def missing() -> list[str]:
    """The tools that this machine lacks."""
    return [each for each in TOOLS if shutil.which(each, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]


def inside(network: str, *command: str) -> Sequence[str]:
    """The command in a network namespace of its own; with it everything that it started ends."""
    script = f'{network} && exec "$@"'
    return ("unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
            "sh", "-c", script, "sh", *command)  # fmt: skip


def watched(record: Path, *command: str) -> Sequence[str]:
    """The command, with every address that it or what it starts turns to in the file `record`; it keeps its own pid."""
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    quiet = ("-qq", "-e", "signal=none")
    return ("strace", "-D", "-f", "--seccomp-bpf", *quiet, "-e", calls, "-o", str(record), *command)


def outside(record: Path) -> list[str]:
    """The addresses in a record that are not this machine's loopback, in order, each line of it that has one."""
    found: list[str] = []
    with record.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            for text in _ADDRESS.findall(line):
                address = ipaddress.ip_address(text)
                mapped = getattr(address, "ipv4_mapped", None) or address
                if not mapped.is_loopback and not mapped.is_unspecified:
                    found.append(f"{mapped}: {line.strip()[:200]}")
    return found
