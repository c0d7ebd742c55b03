"""An installation without Ray: real stores, a real log, and what writes to both as a running Gatehouse does."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import yaml
from click.testing import Result
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner

from deployments.audit.deployment import open_writer
from deployments.audit.settings import AuditSettings, BodySettings
from deployments.audit.sink import Sink
from deployments.clock import SystemClock
from deployments.difficulty.store import RouteRows
from deployments.gate.permit_keys import PermitKeys
from deployments.gate.schema import told
from deployments.gate.store import ApprovalStore
from deployments.ports import AuditEvent, Body, BodyField, KeySpec, NewKey, Receipt, RequestId, TenantId
from deployments.responses.store import ResponseRows
from deployments.store import open_store
from deployments.tenancy.deployment import Ledger
from deployments.tenancy.settings import TenancySettings
from serve_app.cli.main import app
from serve_app.config import AppConfig, parse_config
from serve_app.stores import store_url

ACME = TenantId("acme")
AUDIT = {"checkpoint_interval_ms": 10, "checkpoint_history_s": 0, "segment_bytes": 8_192, "bodies": {"default": "all"}}


class _Method:
    """What a handle's attribute looks like."""

    def __init__(self, call: Callable[[Sequence[AuditEvent]], Awaitable[Sequence[Receipt]]]) -> None:
        self.remote = call


class _Handle:
    def __init__(self, sink: Sink) -> None:
        self.append = _Method(sink.append)


@dataclass
class Running:
    """A Gatehouse that runs, as far as its files can tell."""

    config: AppConfig
    sink: Sink
    ledger: Ledger
    gate: AsyncEngine
    numbers: int = 0

    async def act(self) -> NewKey:
        """Make a key, keep a body, and have the gate tell of something: it is in its table first, then in the log."""
        self.numbers += 1
        key = await self.ledger.create_key(KeySpec(ACME, f"agent {self.numbers}"), "key_admin")
        name = f"told:{key.record.key_id}"
        event = AuditEvent(name, "key.revoked", SystemClock().now_ms(), ACME, "p", data={"key_id": "key_other"})
        async with self.gate.begin() as connection:
            row = {"event_id": name, "state": "waiting", "created_ms": 1, "body": "{}"}
            await connection.execute(insert(told).values(row))
        await self.sink.append([event, _said(key.record.key_id)])
        async with self.gate.begin() as connection:
            await connection.execute(update(told).where(told.c.event_id == name).values(state="recorded", body=""))
        return key


def _said(name: str) -> AuditEvent:
    words = f"list the pods of {name}".encode()
    return AuditEvent(
        f"call:{name}", "tool_call.proposed", SystemClock().now_ms(), ACME, "p", RequestId("r"),
        data={"gate_call_id": f"g{name}", "tool": "shell"},
        bodies={BodyField.ARGUMENTS: Body(sha256(words).digest(), words)},
    )  # fmt: skip


def serve_file(folder: Path, store: str | None = None) -> Path:
    """A Serve config file for a state directory below `folder`."""
    args = {
        "state_dir": str(folder / "state dir"),
        "store_url": store,
        "audit": AUDIT,
        "models": [{"tier": "20b", "engine": {"kind": "synthetic", "model": "clock", "revision": "1"}}],
    }
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump({"applications": [{"args": args, "import_path": "serve_app.app:build"}]}))
    return path


def config_of(path: Path) -> AppConfig:
    return parse_config(yaml.safe_load(path.read_text())["applications"][0]["args"], "test")


@asynccontextmanager
async def running(config: AppConfig) -> AsyncIterator[Running]:
    """Opened as the deployments open it, and closed the same way."""
    state, clock = config.state_path, SystemClock()
    settings = AuditSettings(**{**AUDIT, "bodies": BodySettings(default="all")})
    sink = Sink(state / "audit", settings, clock, partial(open_writer, state / "audit", settings, "test", clock))
    ledger = Ledger(_Handle(sink), str(state), store_url(config, "tenancy"), "alice", TenancySettings())
    gate = ApprovalStore(open_store(store_url(config, "gate")))
    others = (
        ResponseRows(open_store(store_url(config, "responses"))),
        RouteRows(open_store(store_url(config, "difficulty"))),
    )
    try:
        await gate.open()
        PermitKeys(state / "gate-keys").open()
        for rows in others:
            await rows.open()
        while not await ledger.ready():
            await asyncio.sleep(0.01)
        yield Running(config, sink, ledger, gate.engine)
    finally:
        await ledger.close()
        await gate.engine.dispose()
        for rows in others:
            await rows.close()
        await sink.close()


async def work(system: Running) -> None:
    """Act until cancelled."""
    while True:
        await system.act()


# --- the command line over it ----------------------------------------------------------------------------------------


def backed_up(target: Path, file: Path, *arguments: object, status: int = 0) -> Result:
    return gatehouse("backup", "--to", target, "--config", file, *arguments, status=status)


def put_back(source: Path, into: Path, *arguments: object, status: int = 0) -> Result:
    return gatehouse("restore", "--from", source, "--into", into, *arguments, status=status)


def gatehouse(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def at(folder: Path, store: str | None = None) -> AppConfig:
    """The configuration of what was restored into a folder."""
    (folder / "again").mkdir(exist_ok=True)
    config = config_of(serve_file(folder / "again", store))
    return config.model_copy(update={"state_dir": str(folder / "restored")})


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def checks(result: Result) -> dict[str, bool | None]:
    return {each["what"]: each["held"] for each in json.loads(result.stdout)["checks"]}
