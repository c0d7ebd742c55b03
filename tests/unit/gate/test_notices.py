"""Messages of the gate: written with what they tell of, signed, tried again, and told once per receiver."""

import asyncio
import base64
import hashlib
import hmac
import json
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from pydantic import ValidationError
from sqlalchemy import select

from deployments.clock import FixedClock
from deployments.gate.notice_settings import Command, NoticeSettings, Webhook
from deployments.gate.notices import Outbox, message
from deployments.gate.notify import PAUSES_S, BadSecret, Notifier, read_secret, signed_headers
from deployments.gate.schema import notices
from deployments.gate.store import ApprovalStore
from deployments.ports import SYSTEM_TENANT, AuditEvent, JsonValue, TenantId
from deployments.store import open_store, sqlite_url
from tests.processes import alive, cut_off

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ApprovalStore]:
    found = ApprovalStore(open_store(sqlite_url(tmp_path / "gate.db")))
    await found.open()
    yield found
    await found.close()


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return str(path)


def event(name: str = "approval.requested", number: int = 1, **data: JsonValue) -> AuditEvent:
    fields: dict[str, JsonValue] = {"approval_id": f"apr_{number}", "risk": "R2", "tool": "shell", **data}
    return AuditEvent(f"apr_{number}.{name}", name, 1_767_225_600_123, TenantId("acme"), "key_1", data=fields)


class World:
    """An outbox with a scripted receiver; `answers` are statuses or exceptions, the last one repeats."""

    def __init__(self, store: ApprovalStore, settings: NoticeSettings, *answers: int | Exception) -> None:
        self.clock = FixedClock()
        self.store = store
        self.got: list[httpx2.Request] = []
        self.answers = list(answers) or [204]
        self.outbox = Outbox(store.engine, settings)
        self.notifier = Notifier(self.outbox, settings, self.clock, httpx2.MockTransport(self.answer), lambda most: 0)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.got.append(request)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, Exception):
            raise found
        return httpx2.Response(found, headers={"location": "https://elsewhere.test/"})

    async def tell(self, told: AuditEvent) -> int:
        statements = self.outbox.of(told, self.clock.now_ms())
        async with self.store.engine.begin() as connection:
            for statement in statements:
                await connection.execute(statement)
        return len(statements)

    async def states(self) -> list[str]:
        async with self.store.engine.connect() as connection:
            return [row.state for row in await connection.execute(select(notices).order_by(notices.c.place))]


def hook(secret_file: str, *events: str) -> NoticeSettings:
    given = {"events": events} if events else {}
    return NoticeSettings(
        webhooks={
            "pager": Webhook.model_validate({"url": "https://pager.test/in", "secret_file": secret_file, **given})
        }
    )


async def test_a_message_is_signed_as_the_specification_says(store: ApprovalStore, secret_file: str) -> None:
    world = World(store, hook(secret_file))
    await world.tell(event())
    assert await world.notifier.send_due() == 1
    (request,) = world.got
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.content
    expected = base64.b64encode(hmac.new(b"k" * 32, signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert int(request.headers["webhook-timestamp"]) == world.clock.now_ms() // 1000
    body = json.loads(request.content)
    assert body["type"] == "approval.requested"
    assert body["timestamp"] == "2026-01-01T00:00:00.123Z"
    assert body["data"]["approval_id"] == "apr_1"
    assert await world.states() == ["sent"]
    assert await world.notifier.send_due() == 0


def test_the_example_of_the_specification_has_its_signature() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = signed_headers(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_no_argument_and_no_unlisted_field_is_told() -> None:
    told = json.dumps(message(event(arguments_commit="cafe", reasons=["rm -rf /secret"])))
    assert "cafe" not in told
    assert "secret" not in told


@pytest.mark.parametrize("answer", [500, 404, 301, httpx2.ConnectError("down"), httpx2.ReadTimeout("slow")])
async def test_what_was_not_taken_is_tried_again(
    store: ApprovalStore, secret_file: str, answer: int | Exception
) -> None:
    world = World(store, hook(secret_file), answer, answer, 200)
    await world.tell(event())
    assert await world.notifier.send_due() == 0
    assert await world.notifier.send_due() == 0, "not before its pause is over"
    assert len(world.got) == 1
    world.clock.advance(PAUSES_S[0] * 1000)
    assert await world.notifier.send_due() == 0
    world.clock.advance(PAUSES_S[1] * 1000 - 1)
    assert await world.notifier.send_due() == 0
    world.clock.advance(1)
    assert await world.notifier.send_due() == 1
    assert [request.url.host for request in world.got] == ["pager.test"] * 3, "no redirect is followed"
    assert len({request.headers["webhook-id"] for request in world.got}) == 1
    assert await world.states() == ["sent"]


async def test_after_its_time_a_message_has_failed_and_is_counted(store: ApprovalStore, secret_file: str) -> None:
    settings = hook(secret_file).model_copy(update={"give_up_s": 60})
    world = World(store, settings, 500)
    await world.tell(event())
    for _ in range(20):
        await world.notifier.send_due()
        world.clock.advance(30_000)
    state = await world.outbox.state()
    assert (state.waiting, state.oldest_ms, state.failed) == (0, None, 1)


async def test_each_receiver_hears_of_its_events_once(store: ApprovalStore, secret_file: str) -> None:
    settings = NoticeSettings(
        webhooks={
            "all": Webhook(url="https://all.test/", secret_file=secret_file),
            "security": Webhook(url="https://sec.test/", secret_file=secret_file, events=("bypass.attempted",)),
        }
    )
    world = World(store, settings)
    assert await world.tell(event()) == 1
    assert await world.tell(event("bypass.attempted", 2)) == 2
    assert await world.tell(event("permit.consumed", 3)) == 0
    assert await world.notifier.send_due() == 3
    assert sorted(request.url.host for request in world.got) == ["all.test", "all.test", "sec.test"]


async def test_nobody_is_told_of_the_canary(store: ApprovalStore, secret_file: str) -> None:
    world = World(store, hook(secret_file))
    assert await world.tell(replace(event(), tenant=SYSTEM_TENANT)) == 0
    assert await world.tell(replace(event("bypass.attempted"), tenant=SYSTEM_TENANT)) == 1


async def test_two_replicas_send_each_message_once(store: ApprovalStore, secret_file: str) -> None:
    settings = hook(secret_file)
    first, second = World(store, settings), World(store, settings)
    for number in range(30):
        await first.tell(event(number=number))
    taken = await asyncio.gather(first.notifier.send_due(), second.notifier.send_due())
    assert sum(taken) == 30
    assert len(first.got) + len(second.got) == 30


async def test_a_sender_that_lost_its_lease_changes_nothing(store: ApprovalStore, secret_file: str) -> None:
    world = World(store, hook(secret_file))
    await world.tell(event())
    (slow,) = await world.outbox.take(world.clock.now_ms(), 1000)
    world.clock.advance(2000)
    (later,) = await world.outbox.take(world.clock.now_ms(), 1000)
    await world.outbox.failed(slow)
    assert await world.states() == ["waiting"]
    await world.outbox.sent(later)
    assert await world.states() == ["sent"]


async def test_a_receiver_that_is_gone_gets_nothing_and_blocks_nobody(store: ApprovalStore, secret_file: str) -> None:
    before = World(store, hook(secret_file))
    await before.tell(event())
    after = World(store, NoticeSettings())
    assert await after.notifier.send_due() == 0
    assert await after.states() == ["failed"]


async def test_a_command_hook_gets_the_message_and_nothing_else(store: ApprovalStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = tmp_path / "hook.sh"
    script.write_text(f"#!/bin/sh\n{{ cat; echo; env; }} > {out}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    world = World(store, NoticeSettings(commands={"say": Command(argv=(str(script),))}))
    await world.tell(event())
    assert await world.notifier.send_due() == 1
    body, *environment = out.read_text().splitlines()
    assert json.loads(body)["data"]["approval_id"] == "apr_1"
    assert {line.partition("=")[0] for line in environment} <= {
        "PATH",
        "LANG",
        "GATEHOUSE_NOTICE_ID",
        "PWD",
        "_",
        "SHLVL",
        "OLDPWD",
    }


@pytest.mark.parametrize("argv", [("false",), ("/no/such/program",)])
async def test_a_command_that_fails_is_tried_again(store: ApprovalStore, argv: tuple[str, ...]) -> None:
    world = World(store, NoticeSettings(commands={"say": Command(argv=argv)}))
    await world.tell(event())
    assert await world.notifier.send_due() == 0
    assert await world.states() == ["waiting"]


async def test_nothing_of_a_command_survives_its_time(store: ApprovalStore, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    argv = ("sh", "-c", f"sleep 300 & echo $! >> {pids}; wait")
    world = World(store, NoticeSettings(commands={"say": Command(argv=argv, timeout_s=1.0)}))
    await world.tell(event())
    pids.touch()
    while not pids.read_text().endswith("\n"):  # a busy machine may not have got that far: it is tried again
        assert await world.notifier.send_due() == 0
        world.clock.advance(2 * PAUSES_S[-1] * 1000)
    while any(alive(int(pid)) for pid in pids.read_text().split()):
        await asyncio.sleep(0.02)


async def test_nothing_of_a_command_survives_a_close_while_it_starts(
    store: ApprovalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    argv = ("sh", "-c", f"sleep 300 & echo $! > {pid}; wait")
    world = World(store, NoticeSettings(commands={"say": Command(argv=argv, timeout_s=60.0)}))
    await world.tell(event())
    child = await cut_off(world.notifier.send_due(), pid, monkeypatch)
    while alive(child):
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "text", ["", "hunter2", "whsec_", "whsec_!!!", "whsec_" + base64.b64encode(b"short").decode(), "whsec_é"]
)
def test_a_secret_that_is_none_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    with pytest.raises(BadSecret) as refused:
        read_secret(path)
    assert not text.removeprefix("whsec_") or text.removeprefix("whsec_") not in str(refused.value).replace(
        str(path), ""
    )


@pytest.mark.parametrize(
    "url", ["http://pager.test/", "ftp://pager.test/", "https://u:p@pager.test/", "https://", "pager"]
)
def test_a_webhook_is_https_or_local(url: str) -> None:
    with pytest.raises(ValidationError):
        Webhook(url=url, secret_file="x")
    assert Webhook(url="http://127.0.0.1:9/", secret_file="x").url


def test_a_name_means_one_receiver(secret_file: str) -> None:
    with pytest.raises(ValidationError):
        NoticeSettings(
            webhooks={"a": Webhook(url="https://a.test/", secret_file=secret_file)},
            commands={"a": Command(argv=("true",))},
        )
