"""The runbook's monthly drill: back up the running system, restore the backup beside it, and check what came out.

Nothing of the running system is changed but the note of when this was done. On PostgreSQL the restore goes into a
database that the drill creates and drops. The copies hold secrets, lie in a directory of mode 0700, and are deleted
whatever happens.
"""

import secrets
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from deployments.clock import Clock
from serve_app.backups.checks import Check, SiteKeys
from serve_app.backups.last import note
from serve_app.backups.manifest import BackupError
from serve_app.backups.restore import restore
from serve_app.backups.take import Source, take
from serve_app.stores import sqlite_file


@dataclass(frozen=True, slots=True)
class DrillReport:
    """The outcome. `seconds` by step, `size_bytes` of the backup, `records` of the log in it."""

    checks: tuple[Check, ...]
    seconds: Mapping[str, float]
    size_bytes: int
    records: int

    @property
    def ok(self) -> bool:
        """True when all was tried and held: a drill that leaves something out has not shown that a restore works."""
        return bool(self.checks) and all(each.held for each in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "drill": "restore",
            "ok": self.ok,
            "seconds": {name: round(took, 3) for name, took in self.seconds.items()},
            "size_bytes": self.size_bytes,
            "records": self.records,
            "checks": [{"what": each.what, "held": each.held, "seen": each.seen} for each in self.checks],
        }


def run(source: Source, scratch: Path | None, environment: Mapping[str, str], clock: Clock) -> DrillReport:
    """Carry the drill out below `scratch`, by default the system's temporary directory. `BackupError`, `OSError`."""
    with tempfile.TemporaryDirectory(prefix="gatehouse-drill-", dir=scratch) as folder, _database(source) as database:
        begun_s = clock.monotonic_s()
        backup = Path(folder) / "backup.tar"
        taken = take(source, backup, clock.now_ms(), environment, with_secrets=True, remember=False)
        copied_s = clock.monotonic_s()
        named = (source.audit.keys_dir, source.audit.signing_key_file, source.audit.vault_key_file)
        site_keys = SiteKeys(*(None if each is None else Path(each) for each in named))
        outcome = restore(
            backup, Path(folder) / "restored", environment,
            database=database, digest=taken.digest, files_into=Path(folder) / "files",
            site_keys=site_keys,
        )  # fmt: skip
        restored_s = clock.monotonic_s()
        report = DrillReport(
            checks=outcome.checks,
            seconds={"backup": copied_s - begun_s, "restore and checks": restored_s - copied_s},
            size_bytes=sum(each.bytes for each in taken.manifest.files.values()),
            records=taken.manifest.log.records,
        )
    note(source.state, "restore drill", clock.now_ms(), f"{report.records} records", good=report.ok)
    return report


@contextmanager
def _database(source: Source) -> Generator[str | None]:
    """An empty database beside the one in use, gone afterwards; None for an installation on SQLite."""
    remote = [url for url in source.databases if sqlite_file(url) is None]
    if not remote:
        yield None
        return
    name = f"gatehouse_drill_{secrets.token_hex(6)}"
    engine = create_engine(make_url(remote[0]), poolclass=NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True)
    try:
        _execute(engine, f"CREATE DATABASE {name}")
        try:
            yield make_url(remote[0]).set(database=name).render_as_string(hide_password=False)
        finally:
            _execute(engine, f"DROP DATABASE {name}")
    finally:
        engine.dispose()


def _execute(engine: Engine, statement: str) -> None:
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    except SQLAlchemyError as error:
        raise BackupError(
            f"the drill may make no database of its own ({type(error).__name__}): its user needs CREATEDB."
        ) from error
