"""A front end that many people share says for whom it asks: what is believed, and what it changes."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest

from deployments.ingress.acting import Acting
from deployments.ingress.settings import ActAsSettings, IngressSettings
from deployments.ports import GateContext, Scope, ToolCall, Verdict
from serve_app.api.factory import create_api
from tests.fakes import KEY, USAGE, RuleGate, ScriptedEngine, World, call_chunk, chunk, release, sse, stream_reply

SECRET = "a secret of the two of thirty-two bytes"
NAME = "x-openwebui-user-jwt"
CALL = sse(chunk(role="assistant"), call_chunk(0, "shell", '{"command":"ls"}', "c1"), chunk(finish="tool_calls"), USAGE)


def token(secret: str = SECRET, algorithm: str = "HS256", without: str = "", **claims: object) -> str:
    """What Open WebUI sends when its secret is set."""
    now = int(time.time())
    said = {"sub": "7", "email": "ann@acme.example", "name": "Ann", "iss": "open-webui", "iat": now, "exp": now + 300}
    said |= claims
    said.pop(without, None)
    return jwt.encode(said, secret, algorithm=algorithm)


class Listening(RuleGate):
    """Releases everything, and keeps for whom it was asked."""

    def __init__(self) -> None:
        super().__init__(release)
        self.asked: list[GateContext] = []

    async def judge(self, context: GateContext, calls: Sequence[ToolCall]) -> Sequence[Verdict]:
        self.asked.append(context)
        return await super().judge(context, calls)


class House:
    """A gateway with a key of a front end and one of somebody else."""

    def __init__(self, folder: Path, required: bool = False) -> None:
        file = folder / "secret"
        file.write_text(f"{SECRET}\n")
        acting = ActAsSettings(secret_file=str(file), required=required)
        self.gate = Listening()
        self.world = World(
            ScriptedEngine(*[stream_reply(CALL)] * 4),
            gate=self.gate,
            settings=IngressSettings(record_delay_s=0, act_as=acting),
        )
        self.world.ledger.add_key("front", Scope.INFERENCE, Scope.ACT_AS, person="the-front-end")

    async def ask(self, key: str, **headers: str) -> httpx2.Response:
        transport = httpx2.ASGITransport(create_api(self.world.surface()), raise_app_exceptions=False)
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "list the files"}]}
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(
                "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}", **headers}
            )

    @property
    def asked_for(self) -> list[str | None]:
        return [context.principal.person for context in self.gate.asked]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_the_gate_knows_the_person_who_asked(house: House) -> None:
    assert (await house.ask("front", **{NAME: token()})).status_code == 200
    assert (await house.ask("front", **{NAME: token(email="bob@acme.example")})).status_code == 200
    assert (await house.ask("front")).status_code == 200
    assert house.asked_for == ["ann@acme.example", "bob@acme.example", "the-front-end"]
    sessions = [context.session for context in house.gate.asked]
    assert len(set(sessions)) == 3, "the same opening words of two people are two conversations"


async def test_without_the_scope_nothing_is_believed(house: House) -> None:
    headers = {NAME: token(), "x-openwebui-user-email": "ann@acme.example"}
    assert (await house.ask(KEY, **headers)).status_code == 200
    assert house.asked_for == [None]


async def test_plain_names_are_never_read(house: House) -> None:
    assert (await house.ask("front", **{"x-openwebui-user-email": "ann@acme.example"})).status_code == 200
    assert house.asked_for == ["the-front-end"]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"secret": "x" * 40}, id="other-secret"),
        pytest.param({"algorithm": "HS512", "secret": SECRET * 2}, id="other-algorithm"),
        pytest.param({"iss": "somebody"}, id="other-issuer"),
        pytest.param({"exp": 1}, id="expired"),
        pytest.param({"iat": int(time.time()) + 3600}, id="of-the-future"),
        pytest.param({"without": "exp"}, id="for-ever"),
        pytest.param({"without": "iat"}, id="of-no-time"),
        pytest.param({"without": "email"}, id="nobody"),
        pytest.param({"email": ""}, id="empty"),
        pytest.param({"email": ["ann@acme.example"]}, id="no-text"),
        pytest.param({"email": "ann\n@acme.example"}, id="two-lines"),
        pytest.param({"email": "a" * 129}, id="too-long"),
        pytest.param({"name": "x" * 5000}, id="large"),
    ],
)
async def test_a_name_that_does_not_hold_is_refused(house: House, bad: dict[str, Any]) -> None:
    reply = await house.ask("front", **{NAME: token(**bad)})
    assert reply.status_code == 401
    assert "The signed name of the user does not hold" in reply.json()["error"]["message"]
    assert house.asked_for == []


@pytest.mark.parametrize("text", ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30."])
async def test_what_is_no_token_is_refused(house: House, text: str) -> None:
    assert (await house.ask("front", **{NAME: text})).status_code == 401


async def test_where_a_name_is_required_nobody_asks_without(tmp_path: Path) -> None:
    house = House(tmp_path, required=True)
    reply = await house.ask("front")
    assert reply.status_code == 401
    assert NAME in reply.json()["error"]["message"]
    assert (await house.ask("front", **{NAME: token()})).status_code == 200
    assert (await house.ask(KEY)).status_code == 200


def test_a_secret_that_is_short_or_absent_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Acting(ActAsSettings(secret_file=str(tmp_path / "absent")))
    (tmp_path / "short").write_text("x" * 31)
    with pytest.raises(ValueError, match="less than 32 bytes"):
        Acting(ActAsSettings(secret_file=str(tmp_path / "short")))
