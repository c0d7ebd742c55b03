"""A private PostgreSQL for tests: a cluster of its own in a temporary directory, reached over a Unix socket."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

_UNPRIVILEGED = "nobody"  # the server refuses to run as root
_TIMEOUT_S = 120
_ROOM_BYTES = 6 * 2**30


def binaries() -> Path | None:
    """Where the server's programs are; None where there is no server."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


@contextmanager
def private_postgres(programs: Path) -> Iterator[str]:
    """The URL of a fresh, empty server that nobody else knows; it is gone afterwards. Nothing in it is durable."""
    home = Path(tempfile.mkdtemp(prefix="gatehouse-pg-", dir=_memory()))
    user = None
    if os.geteuid() == 0:
        user = pwd.getpwnam(_UNPRIVILEGED).pw_uid
        os.chown(home, user, -1)

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs / program, "-D", home / "data", *arguments],
            user=user,
            cwd=home,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=True,
        )

    options = f"-k {home} -c listen_addresses='' -c fsync=off -c synchronous_commit=off -c max_connections=100"
    try:
        run("initdb", "--username", "gate", "--auth", "trust", "--encoding", "UTF8", "--no-sync")
        run("pg_ctl", "start", "--wait", "--log", str(home / "log"), "--options", options)
        try:
            yield f"postgresql+psycopg://gate@/postgres?host={home}"
        finally:
            run("pg_ctl", "stop", "--wait", "--mode", "immediate")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _memory() -> Path | None:
    """Where files are in memory, when there is room for some hundred databases of 8 MB; None: where they usually are.

    On a busy disk to make so many, and to delete them in the end, took minutes of a run.
    """
    memory = Path("/dev/shm")  # noqa: S108 - a fresh private directory in it
    if not memory.is_dir() or not os.access(memory, os.W_OK):
        return None
    return memory if shutil.disk_usage(memory).free >= _ROOM_BYTES else None


def fresh_database(url: str) -> str:
    """The URL of a new, empty database of a server."""
    name = f"gate_{secrets.token_hex(6)}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(url).set(database=name).render_as_string(hide_password=False)
