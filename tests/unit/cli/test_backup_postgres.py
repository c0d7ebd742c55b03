"""Backups of an installation on PostgreSQL."""

import asyncio
import json
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from deployments.audit.verify import verify
from serve_app.backups.stores import _run
from tests.unit.cli.installations import (
    at,
    backed_up,
    checks,
    config_of,
    gatehouse,
    put_back,
    running,
    serve_file,
    work,
)
from tests.unit.gate.databases import fresh_database


async def test_postgresql_there_and_back(tmp_path: Path, postgres: str) -> None:
    live, empty = fresh_database(postgres), fresh_database(postgres)
    file = serve_file(tmp_path, live)
    async with running(config_of(file)) as system:
        key = await system.act()
        working = asyncio.create_task(work(system))
        await asyncio.to_thread(backed_up, tmp_path / "b.tar", file, "--with-secrets")
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    places = (tmp_path / "b.tar", tmp_path / "restored")
    assert "--database URL" in put_back(*places, status=2).stderr
    assert "tables already" in put_back(*places, "--database", live, status=2).stderr
    assert not (tmp_path / "restored").exists()
    result = put_back(*places, "--database", empty, "--json")
    assert set(checks(result).values()) == {True}
    async with running(at(tmp_path, empty)) as system:
        assert (await system.ledger.authenticate(key.presented)).key_id == key.record.key_id
        await system.act()
    assert verify(tmp_path / "restored" / "audit").ok


async def test_the_drill_on_postgresql_drops_what_it_made(tmp_path: Path, postgres: str) -> None:
    url = fresh_database(postgres)
    file = serve_file(tmp_path, url)
    async with running(config_of(file)) as system:
        await system.act()
        before = _databases(postgres)
        result = await asyncio.to_thread(gatehouse, "drill", "restore", "--config", file, "--json")
    assert json.loads(result.stdout)["ok"]
    assert _databases(postgres) == before


def _databases(url: str) -> list[str]:
    engine = create_engine(make_url(url))
    with engine.connect() as connection:
        found = sorted(connection.execute(text("SELECT datname FROM pg_database")).scalars())
    engine.dispose()
    return found


async def test_without_pg_dump_there_is_a_sentence(
    tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = serve_file(tmp_path, fresh_database(postgres))
    async with running(config_of(file)):
        pass
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("serve_app.backups.stores._INSTALLED", tmp_path)
    result = backed_up(tmp_path / "b", file, status=2)
    assert "there is no pg_dump on this machine: install PostgreSQL's client programs." in result.stderr


def test_the_password_is_in_no_argument(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "pg_dump"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\necho "$PGPASSWORD" > {tmp_path}/password\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for url in (
        "gate:s3cret@db.example/gatehouse?sslmode=require",
        "gate@db.example/gatehouse?sslmode=require&password=s3cret",
    ):
        _run("pg_dump", f"postgresql+psycopg://{url}", ("--format=custom",), {})
        assert (tmp_path / "password").read_text() == "s3cret\n"
        said = (tmp_path / "arguments").read_text()
        assert said == "--dbname=postgresql://gate@db.example/gatehouse?sslmode=require --format=custom\n"
