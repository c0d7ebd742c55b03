"""Two tenants in one house whose stores are real: responses, routes and sessions, approvals and permits, the audit log.

`acme` owns one of everything that is stored, made by its own keys over HTTP; `rival` tries to get at it. What acme says
has its name in it, so that a reply which quotes any of it is found out.
"""

import json
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from deployments.audit.deployment import open_writer
from deployments.audit.settings import AuditSettings
from deployments.audit.sink import Sink
from deployments.clock import FixedClock, SystemClock
from deployments.difficulty.deployment import DifficultyRouter
from deployments.difficulty.settings import DifficultySettings
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.guard import Guard
from deployments.gate.office import PermitOffice
from deployments.gate.settings import GateSettings, Running
from deployments.gate.store import ApprovalStore
from deployments.ingress.dialects.codecs import make_codecs
from deployments.ingress.journey import RoutedModel
from deployments.ingress.settings import IngressSettings
from deployments.ports import (
    Dialect,
    EngineCall,
    EngineItem,
    GateProfile,
    KeyId,
    Principal,
    ResponseStatus,
    Scope,
    StoredResponse,
    TenantId,
    Tier,
)
from deployments.responses.keeper import ResponseKeeper
from deployments.responses.settings import ResponsesSettings
from deployments.responses.store import ResponseRows
from deployments.store import open_store
from router.policy import ROUTING_V1
from serve_app.api.factory import create_api
from tests.api.answering import EMBEDDER, AnsweringEngine, shipped_classifier, surface_of
from tests.fakes import BASE, JSON_START, STRONG, World
from tests.fakes_ledger import InMemoryLedger

ACME, RIVAL, HOUSE = "acme", "rival", "house"
AGENT, MATE, BOB, AUDITOR, ROOT = "gh-a-agent", "gh-a-mate", "gh-a-bob", "gh-a-auditor", "gh-root"
VICTIM, THIEF = "gh-a-victim", "gh-a-thief"
RUNNER = "gatehouse-run@here"
SESSION = "acme-session"
CHANGE, INCIDENT, VERDICT, BUDGET = "CHG-acme-1", "inc-acme-1", "acme-verdict-1", "acme-budget-1"
PLAN = {"change_id": CHANGE, "steps": ["touch acme-marker"], "verify": "test -e acme-marker"}
SECRET = "The word of acme is xylophone."
NOT_ADMIN = frozenset(Scope) - {Scope.ADMIN}
SCOPES: tuple[frozenset[Scope], ...] = (*(frozenset({each}) for each in Scope if each in NOT_ADMIN), NOT_ADMIN)
TOOLS = [{"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}]

_AUDIT = AuditSettings(checkpoint_interval_ms=10)
_REVIEW = {"summary": "acme deletes.", "concerns": ["All of acme."], "rollback": None}
_MOMENTS = frozenset({"anthropic-ratelimit-requests-reset", "anthropic-ratelimit-tokens-reset"})
_VOLATILE = frozenset({"x-request-id", "request-id", "date", "content-length", "openai-processing-ms"})


class _Reviewing(AnsweringEngine):
    """Reviews whatever it is asked about."""

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        self.calls.append(call)
        yield JSON_START
        yield json.dumps({"choices": [{"message": {"content": json.dumps(_REVIEW)}}], "usage": {}}).encode()


@dataclass(frozen=True, slots=True)
class Ids:
    """The ids of what a tenant owns, and two that are the asker's own: `own_response`, `own_route`.

    `live` is a response in the background that still runs, `approval` waits for a vote, `call` is its other name,
    `spent` was used up, `permit` was issued, `done` is executed, `command` left in a stream and may be claimed.
    """

    response: str
    live: str
    item: str
    route: str
    verdict: str
    approval: str
    call: str
    action_digest: str
    display_digest: str
    spent: str
    permit: str
    permit_digest: str
    done: str
    command: str
    tool_call: str
    key: str
    frozen: str
    change: str
    incident: str
    budget: str
    session: str
    tenant: str
    own_response: str
    own_route: str

    def nobody(self) -> "Ids":
        """Ids of the same shapes that name nothing. The asker's own stay."""
        return Ids(
            response=f"resp_{secrets.token_hex(16)}",
            live=f"resp_{secrets.token_hex(16)}",
            item=f"item_{secrets.token_hex(16)}_0",
            route=f"route_{secrets.token_hex(12)}",
            verdict="nobodys-verdict",
            approval=f"apr_{secrets.token_hex(10)}",
            call=secrets.token_hex(16),
            action_digest=self.action_digest,
            display_digest=self.display_digest,
            spent=f"apr_{secrets.token_hex(10)}",
            permit=self.permit[:-8] + secrets.token_hex(4),
            permit_digest=self.permit_digest,
            done=self.done[:-8] + secrets.token_hex(4),
            command="rm nobodys-marker",
            tool_call=f"call_{secrets.token_hex(12)}",
            key="key_900001",
            frozen="key_900002",
            change="CHG-nobody-1",
            incident="inc-nobody-1",
            budget="nobodys-budget",
            session="nobodys-session",
            tenant="nobody",
            own_response=self.own_response,
            own_route=self.own_route,
        )

    def values(self) -> list[str]:
        """All but the asker's own, the longest first, so that none is found within another."""
        return sorted(set(astuple(self)) - {self.own_response, self.own_route}, key=len, reverse=True)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `path` is the document's template, `params` fill it. `json` None: no body."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict[str, str])
    json: object = None
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def operation(self) -> tuple[str, str]:
        """Method and template, as the document names them."""
        return self.method, self.path

    def url(self) -> str:
        """The path with its parameters; what is percent-encoded in them stays so."""
        return self.path.format_map({name: quote(value, safe="%:") for name, value in self.params.items()})


class Tenants:
    """`app` serves both tenants; `url` is the database that all stores but the audit log share."""

    def __init__(self, directory: Path, url: str) -> None:
        self.clock = FixedClock()
        self.numbers = count(1)
        ledger = self.ledger = InMemoryLedger()
        self.agent = ledger.add_key(AGENT, tenant=ACME, person="anne of acme")
        ledger.add_key(MATE, tenant=ACME, person="mia of acme")
        self.bob = ledger.add_key(BOB, Scope.APPROVE, tenant=ACME, person="bob of acme")
        ledger.add_key(AUDITOR, Scope.AUDIT_READ, tenant=ACME)
        self.victim = ledger.add_key(VICTIM, tenant=ACME)
        self.thief = ledger.add_key(THIEF, tenant=ACME)
        ledger.add_key(ROOT, Scope.ADMIN, tenant=HOUSE, person="root")
        wall, log = SystemClock(), directory / "audit"
        self.sink = Sink(log, _AUDIT, wall, partial(open_writer, log, _AUDIT, "test", wall))
        settings = GateSettings()
        classifier = shipped_classifier()
        self.store = ApprovalStore(open_store(url))
        self.desk = ApprovalDesk(
            self.store, self.sink, self.clock, settings, classifier.policy_digest, holders=self._holders
        )
        self.office = PermitOffice(
            self.desk, self.store.engine, self.sink, self.clock, settings, directory / "gate-keys"
        )
        self.rows = ResponseRows(open_store(url))
        self.responses = ResponseKeeper(self.rows, self.clock, ResponsesSettings())
        tiers = {Tier.BASE: (BASE, "r1"), Tier.STRONG: (STRONG, "r1")}
        self.router = DifficultyRouter(DifficultySettings(read_timeout_s=5), ROUTING_V1, tiers, url, clock=self.clock)
        self.engine = AnsweringEngine()
        self.world = World(
            self.engine,
            strong=_Reviewing(),
            settings=IngressSettings(record_delay_s=0),
            # Two seconds are much for a command and little for a busy machine.
            gate=Guard(classifier, self.desk, self.sink, self.clock, classify_timeout_s=30.0),  # pyright: ignore[reportArgumentType]
            permits=self.office,  # pyright: ignore[reportArgumentType]
            ledger=ledger,
            difficulty=self.router,  # pyright: ignore[reportArgumentType]
            audit=self.sink,  # pyright: ignore[reportArgumentType]
            clock=self.clock,
            approvals=self.desk,
            responses=self.responses,  # pyright: ignore[reportArgumentType]
            codecs=make_codecs(emulate_fim=True),
            extra_models=(RoutedModel(None, EMBEDDER, "r1", True, frozenset({Dialect.EMBEDDINGS})),),
            classifier=classifier,
        )
        self.surface = surface_of(self.world)
        self.app = create_api(self.surface)

    async def _holders(self, key_ids: Sequence[KeyId]) -> Sequence[Principal]:
        return await self.ledger.holders(key_ids)

    def new_key(self, tenant: str, scopes: frozenset[Scope], person: str | None = None) -> str:
        """The text of a key that nobody has used; a new one for each attempt, because some attempts freeze it."""
        text = f"gh-{tenant}-{next(self.numbers)}"
        self.ledger.add_key(text, *scopes, tenant=tenant, person=person, gate_profile=GateProfile.OPS)
        return text

    async def send(self, key: str, request: Request) -> httpx2.Response:
        """The reply, once everything that it sets in motion has come to rest."""
        headers = {**request.headers, "authorization": f"Bearer {key}"}
        transport = httpx2.ASGITransport(self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://gatehouse", headers=headers) as http:
            reply = await http.request(
                request.method.upper(), request.url(), params=request.query or None, json=request.json
            )
        await self.surface.journey.drain()
        await self.router.flush()
        return reply

    async def done(self, key: str, method: str, path: str, json: object = None, **more: Any) -> dict[str, Any]:
        """The body of a reply that is none of an error."""
        reply = await self.send(key, Request(method, path, json=json, **more))
        assert reply.is_success, (method, path, reply.text)
        return reply.json()

    async def chat(self, key: str, says: str, **headers: str) -> httpx2.Response:
        """One turn of a conversation with the tool `shell`."""
        body = {"model": "auto", "messages": [{"role": "user", "content": says}], "tools": TOOLS}
        reply = await self.send(key, Request("post", "/v1/chat/completions", json=body, headers=headers))
        assert reply.is_success, reply.text
        return reply

    async def propose(self, key: str, command: str, **more: str) -> dict[str, Any]:
        """A runner's call, as the gate answers it."""
        call = {"tool": "run", "arguments": {"command": command}, "audience": RUNNER, **more}
        return await self.done(key, "post", "/v1/gate/calls", call)

    async def grant(self, approval_id: str) -> None:
        """Plan and approve a request of acme."""
        shown = await self.done(AGENT, "post", f"/v1/approvals/{approval_id}/plan", PLAN)
        vote = {"decision": "approve", **{name: shown[name] for name in ("action_digest", "display_digest")}}
        assert (await self.done(BOB, "post", f"/v1/approvals/{approval_id}/votes", vote))["state"] == "APPROVED"

    async def own(self) -> tuple[str, str]:
        """A response and a route of rival's own."""
        key = self.new_key(RIVAL, frozenset({Scope.INFERENCE}))
        response = await self.done(key, "post", "/v1/responses", {"input": "Rival asks."})
        return response["id"], (await self.chat(key, "Rival asks.")).headers["x-gatehouse-route-id"]

    async def furnish(self, own: tuple[str, str] | None = None) -> Ids:
        """One of everything for acme. `own` is what rival has, made here unless it is given."""
        own_response, own_route = own or await self.own()
        turn = await self.chat(AGENT, SECRET, **{"x-session-id": SESSION})
        route = turn.headers["x-gatehouse-route-id"]
        await self._judge(route)
        first = await self.done(AGENT, "post", "/v1/responses", {"input": SECRET, "prompt_cache_key": SESSION})
        response = await self.done(
            AGENT, "post", "/v1/responses", {"input": f"Again: {SECRET}", "previous_response_id": first["id"]}
        )
        items = await self.done(AGENT, "get", f"/v1/responses/{response['id']}/input_items")
        live = await self._background(response)
        waits = await self.propose(AGENT, "rm acme-marker-1", session=SESSION)
        shown = await self.done(AGENT, "post", f"/v1/approvals/{waits['approval_id']}/plan", PLAN)
        await self.done(AGENT, "post", f"/v1/approvals/{waits['approval_id']}/review")
        executed = await self._executed()
        issued = (await self.propose(AGENT, "git status"))["permit"]
        left = await self._left_in_a_stream("rm acme-marker-3")
        await self.done(BOB, "post", f"/v1/gate/frozen/{self.thief.key_id}", {"reason": "acme was robbed"})
        for path, body in (
            (f"/v1/changes/{CHANGE}/close", {"tenant": ACME, "outcome": "succeeded", "title": "acme moves"}),
            ("/v1/incidents", {"tenant": ACME, "incident_id": INCIDENT, "kind": "outage", "severity": "low"}),
        ):
            await self.done(ROOT, "post", path, body)
        await self.done(ROOT, "put", f"/v1/admin/budgets/{BUDGET}", {"tenant": ACME, "tokens": 10**9})
        return Ids(
            response=response["id"],
            live=live,
            item=items["data"][0]["id"],
            route=route,
            verdict=VERDICT,
            approval=shown["id"],
            call=shown["gate_call_id"],
            action_digest=shown["action_digest"],
            display_digest=shown["display_digest"],
            spent=executed["approval_id"],
            permit=issued["id"],
            permit_digest=issued["action_digest"],
            done=executed["id"],
            command="rm acme-marker-3",
            tool_call=left,
            key=self.victim.key_id,
            frozen=self.thief.key_id,
            change=CHANGE,
            incident=INCIDENT,
            budget=BUDGET,
            session=SESSION,
            tenant=ACME,
            own_response=own_response,
            own_route=own_route,
        )

    async def _judge(self, route: str) -> None:
        verdict = {"route_id": route, "verdict": "wrong", "source": "user", "event_id": VERDICT}
        await self.done(AGENT, "post", "/v1/feedback", verdict)

    async def _background(self, like: Mapping[str, Any]) -> str:
        """A response that somebody generates at this moment: it was begun, and nothing more is heard of it."""
        response_id = f"resp_{secrets.token_hex(16)}"
        body = {**like, "id": response_id, "status": "in_progress", "background": True}
        now_ms = self.clock.now_ms()
        await self.responses.put(
            StoredResponse(
                response_id, TenantId(ACME), self.agent.key_id, ResponseStatus.IN_PROGRESS, body,
                ({"type": "message", "id": "item_acme", "role": "user", "content": SECRET},), None, now_ms, 0, True,
            )
        )  # fmt: skip
        return response_id

    async def _executed(self) -> dict[str, Any]:
        held = await self.propose(AGENT, "rm acme-marker-2")
        await self.grant(held["approval_id"])
        permit = (await self.propose(AGENT, "rm acme-marker-2"))["permit"]
        take = {"action_digest": permit["action_digest"], "audience": RUNNER}
        await self.done(AGENT, "post", f"/v1/permits/{permit['id']}/redeem", take)
        return permit

    async def _left_in_a_stream(self, command: str) -> str:
        """A model's call that was held, approved, and emitted again; the id that its client knows it by."""
        self.engine.arguments = (json.dumps({"command": command}),)
        self.engine.finish = "tool_calls"
        before = {each["id"] for each in await self._approvals()}
        await self.chat(AGENT, SECRET, **{"x-session-id": SESSION})
        (held,) = [each for each in await self._approvals() if each["id"] not in before]
        await self.grant(held["id"])
        again = (await self.chat(AGENT, SECRET, **{"x-session-id": SESSION})).json()
        self.engine.arguments, self.engine.finish = (), "stop"
        (call,) = again["choices"][0]["message"]["tool_calls"]
        return call["id"]

    async def _approvals(self) -> list[dict[str, Any]]:
        return (await self.done(AGENT, "get", "/v1/approvals"))["data"]

    async def seen_by_acme(self, ids: Ids) -> dict[str, object]:
        """All that acme and the house's administrator see of it, with every record of acme in the audit log."""
        seen: dict[str, object] = {}
        for key, path in (
            *((AGENT, f"/v1/responses/{each}") for each in (ids.response, ids.live)),
            *((AGENT, f"/v1/responses/{each}/input_items") for each in (ids.response, ids.live)),
            (AGENT, f"/v1/route/{ids.route}"),
            (AGENT, "/v1/approvals"),
            (AGENT, f"/v1/approvals/{ids.approval}"),
            (AGENT, f"/v1/approvals/{ids.approval}/review"),
            *((AGENT, f"/v1/permits/{each}") for each in (ids.permit, ids.done)),
            (BOB, "/v1/gate/frozen"),
            (ROOT, f"/v1/admin/keys?tenant={ACME}"),
            (ROOT, f"/v1/audit/records?limit=1000&tenant={ACME}"),
        ):
            path, _, query = path.partition("?")
            pairs = dict(pair.split("=") for pair in query.split("&")) if query else {}
            reply = await self.send(key, Request("get", path, query=pairs))
            seen[f"{path}?{query}"] = reply.json()
            assert reply.status_code == 200, (path, reply.text)
        return seen

    def marks(self, ids: Ids) -> list[str]:
        """Words that a reply to rival must not have in it."""
        keys = [record.key_id for record in self.ledger.keys.values() if record.tenant == ACME]
        return [ACME, "xylophone", *keys, *ids.values()]


@asynccontextmanager
async def tenants(directory: Path, url: str) -> AsyncIterator[Tenants]:
    """A house that is open."""
    house = Tenants(directory, url)
    await house.desk.open("default", Running())
    await house.office.open()
    await house.rows.open()
    await house.router.check_health()
    try:
        yield house
    finally:
        await house.router.close()
        await house.rows.close()
        await house.store.close()
        await house.sink.close()


@dataclass(frozen=True, slots=True)
class Told:
    """A reply without what is new in every reply, and with names in the place of the ids that were asked about."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str


def told(reply: httpx2.Response, ids: Ids, *also: str) -> Told:
    """What a reply tells, apart from the ids of the request and from `also`, other words of it."""
    words = [*also, *ids.values()]
    headers = sorted((name.lower(), value) for name, value in reply.headers.multi_items())
    kept = tuple(
        (name, "<moment>" if name in _MOMENTS else unnamed(value, words))
        for name, value in headers
        if name not in _VOLATILE
    )
    return Told(reply.status_code, kept, unnamed(reply.text, words))


def unnamed(text: str, words: Sequence[str]) -> str:
    """The text with `<id>` for every one of the words, in any case of its letters."""
    for word in words:
        text = re.sub(re.escape(word), "<id>", text, flags=re.IGNORECASE)
    return text


def quoted(reply: httpx2.Response, marks: Sequence[str], sent: str) -> list[str]:
    """Those of the marks that a reply has in it, but for what the asker has said itself: `sent`."""
    text = "\n".join((reply.text, *(f"{name}: {value}" for name, value in reply.headers.multi_items())))
    return [
        mark
        for mark in marks
        if re.search(rf"(?<![A-Za-z0-9]){re.escape(mark)}(?![A-Za-z0-9])", text, re.IGNORECASE)
        and mark.lower() not in sent.lower()
    ]
