"""A private PostgreSQL that can be killed: what it has acknowledged is there when it comes back."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

_UNPRIVILEGED = "nobody"  # the server refuses to run as root
_TIMEOUT_S = 120


class Server:
    """One PostgreSQL cluster over a Unix socket. A commit is in the operating system's hands when it is acknowledged.

    The machine never fails here, the server does: `fsync` may be off, `synchronous_commit` must not.
    """

    def __init__(self, programs: Path, home: Path, user: int | None) -> None:
        self._programs = programs
        self._home = home
        self._user = user

    @property
    def url(self) -> str:
        """Where its own, first database is."""
        return f"postgresql+psycopg://gate@/postgres?host={self._home}"

    def create(self) -> None:
        """An empty cluster."""
        self._run("initdb", "--username", "gate", "--auth", "trust", "--encoding", "UTF8", "--no-sync")

    def start(self) -> None:
        """Run it, and return when it takes connections."""
        options = f"-k {self._home} -c listen_addresses='' -c fsync=off -c max_connections=200"
        self._run("pg_ctl", "start", "--wait", "--log", str(self._home / "log"), "--options", options)

    def kill(self) -> None:
        """End every process of it at once, as a crash does: nothing is finished, nothing is flushed."""
        self._run("pg_ctl", "stop", "--wait", "--mode", "immediate")

    def freeze(self) -> None:
        """Let it answer nobody, with all connections open."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it stopped."""
        for process in reversed(self._processes()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def _processes(self) -> list[psutil.Process]:
        """The server and its workers, the one that starts others first."""
        first = psutil.Process(int((self._home / "data" / "postmaster.pid").read_text().split()[0]))
        return [first, *first.children(recursive=True)]

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, "-D", self._home / "data", *arguments],
            user=self._user,
            cwd=self._home,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=True,
        )


@contextlib.contextmanager
def server(programs: Path) -> Iterator[Server]:
    """A running server that nobody else knows; it is gone afterwards."""
    home, user = Path(tempfile.mkdtemp(prefix="gatehouse-pg-")), None
    if os.geteuid() == 0:
        user = pwd.getpwnam(_UNPRIVILEGED).pw_uid
        os.chown(home, user, -1)
    made = Server(programs, home, user)
    try:
        made.create()
        made.start()
        try:
            yield made
        finally:
            with contextlib.suppress(FileNotFoundError):  # a test has left it dead
                made.thaw()
                made.kill()
    finally:
        shutil.rmtree(home, ignore_errors=True)
