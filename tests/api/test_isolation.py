"""What belongs to another tenant does not exist, over every operation of the OpenAPI document.

An operation that is in none of the tables here fails the suite, and so does one that takes an id which none of its
requests tries: a new endpoint cannot be forgotten.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pytest

from deployments.audit.notes import parse_checkpoint, parse_note
from deployments.ports import Scope
from deployments.rollout.plan import revision_of
from deployments.rollouts import Artefact, Kind
from deployments.store import sqlite_url
from serve_app.api.openapi import document
from tests.api.isolating import (
    ACME,
    AGENT,
    NOT_ADMIN,
    PLAN,
    RIVAL,
    RUNNER,
    SCOPES,
    Ids,
    Request,
    Tenants,
    quoted,
    tenants,
    told,
)
from tests.fakes import BASE
from tests.unit.gate.databases import binaries, fresh_database, private_postgres

DOCUMENT = document()
OPERATIONS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]
DIGEST = "7" * 64


@dataclass(frozen=True, slots=True)
class Lookup:
    """A request that names something by its id. `status`: what a key of another tenant with all scopes but `admin` is
    told, about what exists as about what does not. `ids`: the fields that hold ids. `owner`: whose key it works for,
    in `owned` (None: anything but 403 and 404); an empty one is a new key of every scope.
    """

    request: Request
    ids: tuple[str, ...]
    status: int = 404
    owner: str = ""
    owned: int | None = None


def lookups(ids: Ids) -> Iterator[Lookup]:
    """Every way to name a stored object; what ends it comes last."""
    yield from _responses(ids)
    yield from _routes(ids)
    yield from _approvals(ids)
    yield from _permits(ids)
    yield from _frozen(ids)
    yield from _administered(ids)


def _responses(ids: Ids) -> Iterator[Lookup]:
    path = "/v1/responses/{response_id}"
    for each in (ids.response, ids.live):
        named = {"response_id": each}
        yield Lookup(Request("get", path, named), ("response_id",), owned=200)
        yield Lookup(Request("get", f"{path}/input_items", named), ("response_id",), owned=200)
    page = Request("get", f"{path}/input_items", {"response_id": ids.own_response}, query={"after": ids.item})
    yield Lookup(page, ("after",), 400, owned=404)
    for body, fields, status, owned in (
        ({"input": "go", "previous_response_id": ids.response}, ("previous_response_id",), 404, 200),
        ({"input": "go", "previous_response_id": ids.live}, ("previous_response_id",), 404, 400),
        ({"input": [{"type": "item_reference", "id": ids.item}]}, ("id",), 400, 400),
        ({"input": "go", "conversation": ids.response}, ("conversation",), 400, 400),
    ):
        yield Lookup(Request("post", "/v1/responses", json=body), fields, status, owned=owned)
    cancel = Request("post", f"{path}/cancel", {"response_id": ids.live})
    yield Lookup(cancel, ("response_id",), owned=200)
    for each in (ids.response, ids.live):
        yield Lookup(Request("delete", path, {"response_id": each}), ("response_id",), owned=200)


def _routes(ids: Ids) -> Iterator[Lookup]:
    yield Lookup(Request("get", "/v1/route/{route_id}", {"route_id": ids.route}), ("route_id",), owned=200)
    said = {"verdict": "wrong", "source": "user", "event_id": "a-new-verdict", "route_id": ids.route}
    yield Lookup(Request("post", "/v1/feedback", json=said), ("route_id",), owned=200)
    # The owner is told that the event is known; to anybody else it is a new one.
    again = {**said, "event_id": ids.verdict, "route_id": ids.own_route}
    yield Lookup(Request("post", "/v1/feedback", json=again), ("event_id",), 200, owned=400)


def _approvals(ids: Ids) -> Iterator[Lookup]:
    approval, call = "/v1/approvals/{approval_id}", "/v1/gate/calls/{approval_id}"
    vote = {"decision": "approve", "action_digest": ids.action_digest, "display_digest": ids.display_digest}
    report, back = {"outcome": "failed", "note": "rival"}, {"outcome": "failed", "note": "rival"}
    for each in (ids.approval, ids.call):
        named = {"approval_id": each}
        for method, path, body in (
            ("get", approval, None),
            ("get", f"{approval}/review", None),
            ("post", f"{approval}/review", None),
            ("post", f"{approval}/plan", PLAN),
            ("post", f"{call}/plan", PLAN),
            ("post", f"{approval}/votes", vote),
        ):
            yield Lookup(Request(method, path, named, json=body), ("approval_id", *(body or ())))
        yield Lookup(Request("get", "/v1/gate/calls/{gate_call_id}", {"gate_call_id": each}), ("gate_call_id",))
    for path, body in (("report", report), ("rollback", back)):
        yield Lookup(Request("post", f"{approval}/{path}", {"approval_id": ids.spent}, json=body), ("approval_id",))
    for each in (ids.approval, ids.call):
        for path in ("cancel", "expire"):
            request = Request("post", f"{approval}/{path}", {"approval_id": each}, json={"reason": "rival"})
            yield Lookup(request, ("approval_id",))


def _permits(ids: Ids) -> Iterator[Lookup]:
    path = "/v1/permits/{permit_id}"
    ended = {"outcome": "failed", "output_digest": DIGEST, "started_ms": 1, "ended_ms": 2}
    take = {"action_digest": ids.permit_digest, "audience": RUNNER, "nonce": "n" * 43}
    for each in (ids.permit, ids.done):
        yield Lookup(Request("get", path, {"permit_id": each}), ("permit_id",), owned=200)
    claim = {"tool": "shell", "arguments": {"command": ids.command}, "audience": RUNNER}
    for tool in ("shell", "run"):
        request = Request("post", "/v1/permits/claim", json={**claim, "tool": tool})
        yield Lookup(
            request,
            ("arguments", "audience"),
            owner=AGENT if tool == "run" else "",
            owned=200 if tool == "run" else 404,
        )
    for suffix, named, body in (
        ("redeem", ids.permit, take),
        ("rollback", ids.done, {"step": 0, "audience": RUNNER}),
        ("report", ids.done, ended),
    ):
        request = Request("post", f"{path}/{suffix}", {"permit_id": named}, json=body)
        yield Lookup(request, ("permit_id", *body), owner=AGENT, owned=200)


def _frozen(ids: Ids) -> Iterator[Lookup]:
    path = "/v1/gate/frozen/{key_id}"
    for each in (ids.key, ids.frozen):
        yield Lookup(Request("post", path, {"key_id": each}, json={"reason": "rival"}), ("key_id",), owned=200)
    body = {"change_id": ids.change, "reason": "rival"}
    for each in (ids.key, ids.frozen):
        request = Request("post", f"{path}/release", {"key_id": each}, json=body)
        yield Lookup(request, ("key_id", "change_id"), 403, owned=200)


def _administered(ids: Ids) -> Iterator[Lookup]:
    """What takes the scope `admin`, and is refused before anything is looked up."""
    concerned = {"tenant": ids.tenant, "change_id": ids.change, "approval_id": ids.approval, "gate_call_id": ids.call}
    opened = {**concerned, "incident_id": f"{ids.incident}-again", "kind": "outage", "severity": "low"}
    closed = {"tenant": ids.tenant, "outcome": "succeeded"}
    step = {"event": "started", "rollout_id": "ro-1", "kind": "model", "change_id": ids.change}
    again = {"idempotency-key": ids.verdict}
    files: dict[str, object] = {"kind": "engine", "target": BASE, "settings": {"max_num_seqs": 8}}
    revision = revision_of(Artefact(Kind.ENGINE, BASE, settings='{"max_num_seqs": 8}'))
    plan = {"rollout_id": "ro-2", "kind": "engine", "target": BASE, "previous_revision": "r1", "change_id": ids.change}
    rollout, here, moved = "/v1/admin/rollouts/{rollout_id}", {"rollout_id": "ro-2"}, {"change_id": ids.change}
    for request, owned in (
        (Request("post", "/v1/admin/artefacts", json={**files, "change_id": ids.change}), 201),
        (Request("post", "/v1/admin/rollouts", json={**plan, "revision": revision}), 201),
        (Request("get", rollout, here), 200),
        (Request("get", f"{rollout}/history", here), 200),
        (Request("post", f"{rollout}/promote", here, {**moved, "to": 5}), 400),
        (Request("post", f"{rollout}/hold", here, moved), 400),
        (Request("post", f"{rollout}/resume", here, moved), 200),
        (Request("post", f"{rollout}/rollback", here, moved), 200),
        (Request("get", "/v1/admin/keys", query={"tenant": ids.tenant}), 200),
        (Request("get", "/v1/admin/tenants/{tenant_id}", {"tenant_id": ids.tenant}), 200),
        (Request("post", "/v1/admin/keys", json={"tenant": ids.tenant, "name": "rival"}), 201),
        (
            Request("post", "/v1/changes/{change_id}/close", {"change_id": f"{ids.change}-2"}, closed, headers=again),
            201,
        ),
        (Request("post", "/v1/incidents", json=opened, headers=again), 201),
        (
            Request("post", "/v1/incidents/{incident_id}/update", {"incident_id": ids.incident}, concerned,
                    headers=again),
            201,
        ),
        (
            Request("post", "/v1/incidents/{incident_id}/close", {"incident_id": ids.incident},
                    {**concerned, "outcome": "resolved"}, headers=again),
            201,
        ),
        (Request("post", "/v1/rollouts/events", json=step, headers=again), 201),
        (Request("get", "/v1/audit/records", query={"tenant": ids.tenant}), 200),
        (Request("post", "/v1/audit/shred", json={"tenant": ids.tenant, "change_id": ids.change}), 201),
        (Request("get", "/v1/admin/budgets", query={"tenant": ids.tenant}), 200),
        (Request("get", "/v1/usage", query={"tenant": ids.tenant, "group_by": "key,model"}), 200),
        (Request("get", "/v1/usage/export", query={"tenant": ids.tenant, "after": "0"}), 200),
        (Request("post", "/v1/admin/budgets", json={"tenant": ids.tenant, "key_id": ids.key, "tokens": 9}), 201),
        (
            Request("put", "/v1/admin/budgets/{budget_id}", {"budget_id": ids.budget},
                    {"tenant": ids.tenant, "key_id": ids.key, "tokens": 1}),
            200,
        ),
        (Request("delete", "/v1/admin/budgets/{budget_id}", {"budget_id": ids.budget}), 200),
        (Request("post", "/v1/admin/keys/{key_id}/rotate", {"key_id": ids.key}, {}), 200),
        (Request("post", "/v1/admin/keys/{key_id}/expire", {"key_id": ids.key}, {"in_s": 9}), 200),
        (Request("delete", "/v1/admin/keys/{key_id}", {"key_id": ids.key}), 200),
    ):  # fmt: skip
        named = (*request.params, *request.query, *request.headers, *fields_of(request))
        yield Lookup(request, named, 403, owned=owned)


def _plain(operation: tuple[str, str]) -> Request:
    """A request whose body says nothing: whether the key may ask at all comes before what it asks."""
    method, path = operation
    return Request(method, path, {"model": BASE} if "{model}" in path else {}, None if method == "get" else {})


def fields_of(request: Request) -> list[str]:
    """The names of a body's fields."""
    return list(cast("dict[str, object]", request.json)) if isinstance(request.json, dict) else []


LISTS = [
    Request("get", "/v1/approvals"),
    *(Request("get", "/v1/approvals", query={"state": state}) for state in ("NEEDS_PLAN", "PENDING", "CONSUMED")),
    Request("get", "/v1/gate/frozen"),
    Request("get", "/v1/audit/records"),
    Request("get", "/v1/audit/records", query={"tenant": RIVAL, "begin": "1", "limit": "1000"}),
    Request("get", "/v1/admin/keys"),
    Request("get", "/v1/admin/budgets"),
    Request("get", "/v1/budgets"),
    Request("get", "/v1/usage"),
    Request("get", "/v1/usage", query={"tenant": RIVAL, "group_by": "tenant,key,model", "bucket": "hour"}),
    *(Request("get", "/v1/usage/export", query={"format": each, "after": "0"}) for each in ("csv", "json", "jsonl")),
    Request("get", "/v1/admin/tenants"),
    Request("get", "/v1/admin/engines"),
    Request("get", "/v1/admin/rollouts"),
    Request("get", "/v1/models"),
    Request("get", "/v1/codex/models.json"),
]
"""What lists or counts: the same to another tenant before and after acme has made all that it has."""

COMMON = [
    Request("get", "/v1/audit/head"),
    Request("get", "/v1/audit/status"),
    Request("get", "/v1/audit/keys"),
    Request("get", "/v1/audit/checkpoint"),
    Request("get", "/v1/audit/consistency", query={"old_size": "1"}),
    Request("get", "/v1/audit/receipts/{index}", {"index": "5"}),
    Request("get", "/v1/audit/receipts/{index}", {"index": "5"}, query={"format": "tlog-proof"}),
    Request("get", "/v1/audit/tile/{tile}", {"tile": "0/000"}),
    Request("get", "/v1/gate/jwks"),
    Request("get", "/"),
    Request("head", "/"),
    Request("get", "/openapi.json"),
    Request("get", "/healthz"),
    Request("get", "/readyz"),
    Request("get", "/healthz/audit"),
    Request("get", "/healthz/approvals"),
    Request("get", "/metrics"),
]
"""What is of the whole house: one log, one gate. It grows with every tenant's traffic and names none of them."""

NAMELESS = {
    ("post", "/v1/messages/count_tokens"),
    ("post", "/tokenize"),
    ("post", "/detokenize"),
    ("post", "/v1/gate/classify"),
    ("get", "/v1/models/{model}"),
}
"""Answered from the request and the settings alone; models belong to the house and are granted to keys."""

CONVERSING = {
    ("post", "/v1/chat/completions"),
    ("post", "/v1/completions"),
    ("post", "/v1/responses"),
    ("post", "/v1/messages"),
    ("post", "/v1/embeddings"),
    ("post", "/v1/route"),
    ("post", "/v1/gate/calls"),
}
"""What continues a conversation by its name: `test_isolation_sessions.py` has them all."""
NAMED_THERE = {
    "id", "tool_call_id", "call_id", "tool_use_id", "prompt_cache_key", "user", "session", "audience",
    "header-x-session-id", "header-session-id", "header-x-claude-code-session-id", "header-x-session-affinity",
    "header-thread-id", "header-x-litellm-session-id", "header-x-litellm-trace-id", "header-x-gatehouse-change-id",
    "arguments",
}  # fmt: skip
NO_IDS = {
    "header-x-request-id": "its caller's own name for the request; records are keyed by others",
    "stop_token_ids": "token ids",
    "fallback_credit_token": "read by nothing",
    "route": "how to route, as an object",
    "model": "models belong to the house",
    "rollout_id": "rollouts belong to the house",
    "old_size": "a size of the one log",
    "begin": "a place of the one log; whose records come is the key's to say",
    "index": "a place of the one log",
    "leaf": "a hash of the one log",
    "tile": "a file of the one log",
}
_TELLING = re.compile(
    r"(^|[_-])(id|ids|index|leaf|session|affinity|tenant|cursor|after|before|begin|tile|token|digest|key|user|route"
    r"|permit|approval|reference|conversation|audience|nonce|model|old_size)$"
)


def named_by(method: str, path: str) -> set[str]:
    """The fields of an operation that look like names of something: in path, query, headers and body."""
    described = DOCUMENT["paths"][path][method]
    parameters = described.get("parameters", [])
    names = {each["$ref"].rsplit("/", 1)[-1] if "$ref" in each else each["name"] for each in parameters}
    names |= set(_properties(described.get("requestBody", {}), set()))
    in_path = set(re.findall(r"{(\w+)}", path))
    return {name for name in names if _TELLING.search(name)} | in_path


def _properties(schema: Any, seen: set[str]) -> Iterator[str]:
    match schema:
        case {"$ref": str(ref)}:
            if ref not in seen:
                seen.add(ref)
                yield from _properties(DOCUMENT["components"]["schemas"][ref.rsplit("/", 1)[-1]], seen)
        case dict():
            yield from schema.get("properties", {})
            for each in schema.values():
                yield from _properties(each, seen)
        case list():
            for each in schema:
                yield from _properties(each, seen)
        case _:
            pass


NAMES = Ids(*(f"some-{name}" for name in Ids.__dataclass_fields__))  # for the tables' shape; they name nothing


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_operation_is_tried_with_every_id_that_it_takes(method: str, path: str) -> None:
    operation = method, path
    rows = [row for row in lookups(NAMES) if row.request.operation == operation]
    elsewhere = {*(each.operation for each in (*LISTS, *COMMON)), *NAMELESS, *CONVERSING}
    assert rows or operation in elsewhere, "say in a table here what this operation shows another tenant"
    tried = {name for row in rows for name in row.ids}
    tried |= {"header-" + name for row in rows for name in row.request.headers}
    if operation in CONVERSING | NAMELESS:
        tried |= NAMED_THERE
    assert named_by(method, path) - tried - NO_IDS.keys() == set(), "no request tries these ids of another tenant"


def test_the_tables_name_only_operations_that_there_are() -> None:
    named = {row.request.operation for row in lookups(NAMES)} | {each.operation for each in (*LISTS, *COMMON)}
    assert (named | NAMELESS | CONVERSING) - set(OPERATIONS) == set()


# --- the house -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
    with private_postgres(programs) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Tenants]:
    """A house over a database of each kind."""
    url = sqlite_url(tmp_path / "state.db")
    if request.param == "postgresql":
        url = fresh_database(request.getfixturevalue("postgres"))
    async with tenants(tmp_path, url) as opened:
        yield opened


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Tenants]:
    async with tenants(tmp_path, sqlite_url(tmp_path / "state.db")) as opened:
        yield opened


def stranger(house: Tenants, scopes: frozenset[Scope]) -> str:
    """A new key of the other tenant; a person's, who could vote."""
    return house.new_key(RIVAL, scopes, person="rita of rival")


async def differences(
    house: Tenants, ids: Ids, scopes: frozenset[Scope], spelled: Callable[[str], str] | None = None
) -> list[str]:
    """What tells another tenant that something of acme's exists, or what it is."""
    nobody, marks, found = ids.nobody(), house.marks(ids), list[str]()
    for mine, other in zip(lookups(ids), lookups(nobody), strict=True):
        one, two = mine.request, other.request
        if spelled is not None:
            if not one.params:
                continue
            one, two = (
                replace(each, params={name: spelled(value) for name, value in each.params.items()})
                for each in (one, two)
            )
        replies = [await house.send(stranger(house, scopes), each) for each in (one, two)]
        said = told(replies[0], ids, *map(unquote, one.params.values()))
        known = told(replies[1], nobody, *map(unquote, two.params.values()))
        where = f"{one.method} {one.url()} {one.json or ''} with {sorted(scopes)}"
        if said != known:
            found.append(f"{where}: {said} is not {known}")
        sent = f"{unquote(one.url())} {one.json} {one.query} {one.headers}"
        if leaked := quoted(replies[0], marks, sent):
            found.append(f"{where}: shows {leaked}")
        allowed = {mine.status} if scopes == NOT_ADMIN else {mine.status, 403, 404, 400}
        if spelled is None and said.status not in allowed:
            found.append(f"{where}: {said.status} and not {mine.status}")
    return found


@pytest.mark.parametrize("scopes", SCOPES, ids=lambda each: "+".join(sorted(each)))
async def test_what_is_of_another_tenant_is_as_what_does_not_exist(either: Tenants, scopes: frozenset[Scope]) -> None:
    ids = await either.furnish()
    before = await either.seen_by_acme(ids)
    assert await differences(either, ids, scopes) == []
    assert await either.seen_by_acme(ids) == before


async def test_a_key_that_tells_of_rollouts_can_do_nothing_else(house: Tenants) -> None:
    """Of its own tenant neither: it lies in a pod that drives a canary, and is worth nothing to whoever finds it."""
    ids, narrow = await house.furnish(), frozenset({Scope.ROLLOUT_EVENTS})
    key = house.new_key(ACME, narrow, person="olga of acme")
    before = await house.seen_by_acme(ids)
    public = {each.operation for each in COMMON if not each.path.startswith("/v1/audit")}
    asked = [*(row.request for row in lookups(ids)), *LISTS, *COMMON, *(_plain(each) for each in NAMELESS | CONVERSING)]
    for request in asked:
        if request.operation not in public:
            reply = await house.send(key, request)
            assert reply.status_code in (400, 403), (request, reply.text)  # the dialect decides
            assert "scope" in reply.text, (request, reply.text)
    assert await house.seen_by_acme(ids) == before
    step = {"event": "started", "rollout_id": "rel-1", "kind": "cluster", "change_id": ids.change}
    told_of = await house.send(key, Request("post", "/v1/rollouts/events", json=step))
    assert told_of.status_code == 201, told_of.text


SPELLINGS: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "swapped": str.swapcase,
    "encoded": lambda value: "".join(f"%{ord(each):02X}" for each in value),
    "trailing space": lambda value: f"{value}%20",
    "leading space": lambda value: f"%20{value}",
    "trailing slash": lambda value: f"{value}%2F",
    "trailing dot": lambda value: f"{value}.",
    "trailing zero": lambda value: f"{value}%00",
    "like": lambda value: f"{value[:-2]}%25",
    "climbing": lambda value: f"x%2F..%2F{value}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_no_spelling_of_an_id_finds_it(house: Tenants, spelling: str) -> None:
    ids = await house.furnish()
    before = await house.seen_by_acme(ids)
    assert await differences(house, ids, NOT_ADMIN, SPELLINGS[spelling]) == []
    assert await house.seen_by_acme(ids) == before


async def test_its_owner_gets_what_a_stranger_does_not(house: Tenants) -> None:
    """Without this, requests that nobody could make would pass as refused."""
    ids = await house.furnish()
    record = house.ledger.keys[AGENT]
    house.ledger.keys[AGENT] = replace(record, scopes=frozenset(Scope))
    for row in lookups(ids):
        key = row.owner or house.new_key(ACME, frozenset(Scope), person="olga of acme")
        reply = await house.send(key, row.request)
        where = f"{row.request.method} {row.request.url()}: {reply.status_code} {reply.text}"
        if row.owned is None:
            assert reply.status_code in (200, 400), where
            assert reply.status_code == 200 or reply.json()["error"]["code"] == "approval_conflict", where
        else:
            assert reply.status_code == row.owned, where


@pytest.mark.parametrize("scopes", SCOPES, ids=lambda each: "+".join(sorted(each)))
async def test_no_list_count_or_page_shows_another_tenant(either: Tenants, scopes: frozenset[Scope]) -> None:
    runner = either.new_key(RIVAL, frozenset({Scope.INFERENCE}))
    own = await either.own()
    for number in range(2):
        await either.propose(runner, f"rm rivals-marker-{number}")
    before = [told(await either.send(stranger(either, scopes), each), NAMES) for each in LISTS]
    ids = await either.furnish(own)
    for request, was in zip(LISTS, before, strict=True):
        now = await either.send(stranger(either, scopes), request)
        assert told(now, NAMES) == was, request
        assert quoted(now, either.marks(ids), "") == [], request
    mine = await either.done(runner, "get", "/v1/approvals")
    assert [each["tenant"] for each in mine["data"]] == [RIVAL, RIVAL]


@pytest.mark.parametrize("scopes", SCOPES, ids=lambda each: "+".join(sorted(each)))
async def test_what_all_tenants_see_names_none_of_them(house: Tenants, scopes: frozenset[Scope]) -> None:
    ids = await house.furnish()
    await house.sink.prove((await house.sink.head()).size - 1)  # once all of it is sealed
    size = parse_checkpoint(parse_note(await house.sink.checkpoint()).text).size
    for request in COMMON:
        if "tile" in request.params:
            request = replace(request, params={"tile": f"0/000.p/{size}"})
        reply = await house.send(stranger(house, scopes), request)
        reads = Scope.AUDIT_READ in scopes or not request.path.startswith("/v1/audit")
        assert reply.status_code == (200 if reads else 403), request
        assert quoted(reply, house.marks(ids), "") == [], request
