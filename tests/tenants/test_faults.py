"""Nobody overspends and nobody pays twice while parts of Gatehouse are killed under load, over both databases.

What clients were told is held against the rows of usage, read past the ledger, and those against the budgets.
"""

import asyncio
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpx2
import pytest

from tests.tenants.books import Row
from tests.tenants.graph import Graph, until
from tests.tenants.load import KINDS, Load, Reply

_log = logging.getLogger("gatehouse.tests")
_REFUSED = frozenset({"budget_exceeded", "billing_error"})
_OURS = frozenset({"server_is_overloaded", "overloaded_error", "not ours", "gone"})
"""What a request that Gatehouse could not begin is told; it costs nothing unless its ingress was killed."""
_ENOUGH = 80
"""Whole answers before a fault, and after it."""
_CLIENTS = 32
_numbers = itertools.count(1)


@dataclass
class Case:
    """A tenant with two teams, their budgets, and the load of their keys."""

    graph: Graph
    tenant: str
    teams: dict[str, tuple[str, str]]
    load: Load
    budgets: dict[str, tuple[str, str, str]] = field(default_factory=dict[str, tuple[str, str, str]])
    """Name -> whose it is (`team` or `key_id`, and which) and its unit."""

    def limit(self, bearer: str, whose: str, unit: str, amount: int | str) -> None:
        name = f"{self.tenant}-{len(self.budgets)}"
        of = {} if bearer == "tenant" else {bearer: whose}
        self.graph.budget(name, tenant=self.tenant, **of, **{unit: amount})
        self.budgets[name] = (bearer, whose, unit)

    def rows_of(self, name: str, rows: Sequence[Row]) -> list[Row]:
        bearer, whose, _ = self.budgets[name]
        return [row for row in rows if bearer == "tenant" or getattr(row, bearer) == whose]

    def closed(self) -> bool:
        """True when nothing of the tenant is open any more."""
        with suppress(httpx2.HTTPError):
            self.graph.nudge()
            held = sum(int(each["reserved"]) for each in self.graph.budgets(self.tenant).values())
            return held == 0 and self.graph.books.open(self.tenant) == 0
        return False


def case(graph: Graph, name: str, kinds: Sequence[str] = KINDS, **amounts: int | str) -> Case:
    """Two teams of three keys; `amounts` are those of the tenant's money, the teams' tokens and money, and of a key."""
    tenant = f"{name}{next(_numbers)}"
    teams = graph.tenant(tenant, {"red": 3, "blue": 3})
    made = Case(graph, tenant, teams, Load(graph.stack.url, list(teams), tenant, kinds))
    made.limit("tenant", tenant, "money", amounts.get("tenant", "1000"))
    made.limit("team", "red", "tokens", amounts.get("red", 10**7))
    made.limit("team", "blue", "money", amounts.get("blue", "1000"))
    key_id = next(key_id for team, key_id in teams.values() if team == "blue")
    made.limit("key_id", key_id, "tokens", amounts.get("key", 1500))
    return made


async def through(at: Case, fault: Callable[[], None]) -> None:
    """Load before, during and after `fault`, which returns when the part is back."""
    clients = asyncio.create_task(at.load.clients(_CLIENTS))
    try:
        await asyncio.to_thread(until, "the load runs", lambda: at.load.whole >= _ENOUGH)
        await asyncio.to_thread(fault)
        reached = at.load.whole + _ENOUGH
        await asyncio.to_thread(until, "it goes on", lambda: at.load.whole >= reached)
    finally:
        at.load.stop()
        await clients


def judge(at: Case, exact: bool = True) -> Counter[str]:
    """Hold the books against what clients were told; the figures. `exact`: no whole answer may be an estimate."""
    until("everything is settled", at.closed)
    charged = at.graph.books.by_request(at.tenant)
    rows = [row for each in charged.values() for row in each]
    replies = {reply.request_id: reply for reply in at.load.replies}
    assert charged.keys() <= replies.keys()
    assert len({row.grant_id for row in rows}) == len(rows)
    doubled = [name for name, each in charged.items() if len(each) > most_rows(replies[name])]
    lost = [reply.request_id for reply in replies.values() if reply.is_whole and reply.request_id not in charged]
    costly = [reply.request_id for reply in replies.values() if reply.code in _REFUSED and reply.request_id in charged]
    assert (doubled, lost, costly) == ([], [], [])
    figures = at.load.counts()
    for reply in replies.values():
        if reply.is_whole:
            of_one = charged[reply.request_id]
            assert reply.expected in (None, reply.tokens)
            if any(row.is_lost for row in of_one):
                assert not exact, f"{reply} is charged an estimate"
                figures["answered, estimated"] += 1
                continue
            assert not any(row.estimated for row in of_one), reply
            counted = sum(row.input_tokens for row in of_one), sum(row.output_tokens for row in of_one)
            assert counted == reply.tokens, (reply, of_one)
            figures["cascaded"] += len(of_one) == 2
        elif reply.code in _REFUSED:
            assert refusal(reply), reply
    for row in rows:
        if row.is_lost:
            assert (row.input_tokens, row.output_tokens, row.estimated) == (0, row.reserved_tokens, True)
    bound(at, rows)
    figures["sent"], figures["charged"] = len(replies), len(rows)
    figures["estimated"] = sum(row.estimated for row in rows)
    figures["lost to an estimate"] = sum(row.is_lost for row in rows)
    for name, of_one in charged.items():
        if any(row.is_lost for row in of_one):
            assert not exact, f"nobody settled {replies[name]}"
            figures[f"lost: {replies[name].code or 'answered'}"] += 1
    figures["tokens"] = sum(row.tokens for row in rows)
    _log.info("%s: %s", at.tenant, json.dumps(dict(sorted(figures.items()))))
    return figures


def most_rows(reply: Reply) -> int:
    """Attempts that a request may be charged for."""
    return 2 if reply.kind == "cascade" else 1


def refusal(reply: Reply) -> bool:
    """True when a spent budget is told in the words of the client's dialect."""
    told = json.loads(reply.body)
    if reply.kind == "messages":
        return (reply.status, told["type"], told["error"]["type"]) == (400, "error", "billing_error")
    return (reply.status, told["error"]["type"], told["error"]["code"]) == (
        400,
        "insufficient_quota",
        "budget_exceeded",
    )


def excess(unit: str, rows: Sequence[Row]) -> int:
    """What requests used beyond what was set aside for them: the only thing that may pass a budget."""
    if unit == "tokens":
        return sum(max(0, row.tokens - row.reserved_tokens) for row in rows if row.reserved_tokens is not None)
    return sum(max(0, row.cost_micros - row.reserved_micros) for row in rows if row.reserved_micros is not None)


def bound(at: Case, rows: Sequence[Row]) -> None:
    """Each budget is the sum of its rows, and is passed by no more than the bound."""
    states = at.graph.budgets(at.tenant)
    assert states.keys() == at.budgets.keys()
    for name, state in states.items():
        unit, own = at.budgets[name][2], at.rows_of(name, rows)
        used = sum(row.tokens if unit == "tokens" else row.cost_micros for row in own)
        assert (state["used"], state["reserved"]) == (used, 0), name
        forgotten = sum(
            row.tokens if unit == "tokens" else row.cost_micros for row in own if row.reserved_tokens is None
        )
        assert used <= state["amount"] + excess(unit, own) + forgotten, name


async def test_a_thousand_at_once_against_small_budgets(graph: Graph) -> None:
    at = case(graph, "burst", ("whole", "stream", "messages"), tenant="5", red=100, blue="0.4", key=300)
    highest = Counter[str]()
    burst = asyncio.create_task(at.load.burst(1000))
    while not burst.done():
        with suppress(httpx2.HTTPError):  # a busy machine
            for name, state in (await asyncio.to_thread(graph.budgets, at.tenant)).items():
                highest[name] = max(highest[name], state["used"] + state["reserved"])
    await burst
    figures = judge(at)
    rows = graph.books.rows(at.tenant)
    for name, state in graph.budgets(at.tenant).items():
        over = excess(at.budgets[name][2], at.rows_of(name, rows))
        _log.info("%s of %s: used %d, highest sum %d, beyond reservations %d", name, state["amount"], state["used"],
                  highest[name], over)  # fmt: skip
        assert highest[name] <= state["amount"] + over
    refused = sum(figures[code] for code in _REFUSED)
    # On a busy machine a call within Gatehouse may pass its deadline: such a request was not begun.
    late = sum(figures[code] for code in _OURS)
    assert figures["answered"] + refused + late == 1000
    assert figures["estimated"] == 0
    assert figures["answered"] > 10 < refused


def kill(graph: Graph, deployment: str, count: int) -> None:
    """Kill one replica of a deployment that has `count`, and wait until it has them again."""
    before = graph.replicas(deployment)
    assert len(before) == count
    before[0].kill()
    # Serve has noticed when there is a process that was not there.
    until(f"{deployment} is back", lambda: len(fresh(graph, deployment, before)) > 0 and graph.ready())


def fresh(graph: Graph, deployment: str, before: Sequence[object]) -> list[object]:
    return [each for each in graph.replicas(deployment) if each not in before]


async def test_the_ledger_is_killed_under_load(graph: Graph) -> None:
    at = case(graph, "ledger")
    await through(at, lambda: kill(graph, "Ledger", 1))
    judge(at)


async def test_an_ingress_is_killed_under_load(graph: Graph) -> None:
    at = case(graph, "ingress")
    await through(at, lambda: kill(graph, "Ingress", 2))
    figures = judge(at, exact=False)
    assert figures["lost to an estimate"] > 0


@pytest.mark.parametrize("graph", ["postgresql"], indirect=True)
async def test_the_database_is_killed_under_load(graph: Graph) -> None:
    at, server = case(graph, "database"), graph.server
    assert server is not None

    def fault() -> None:
        server.kill()
        refused = failures(at.load)
        until("clients notice", lambda: failures(at.load) >= refused + 5)
        server.start()
        until("all is ready", graph.ready)

    await through(at, fault)
    judge(at)


@pytest.mark.parametrize("graph", ["postgresql"], indirect=True)
async def test_the_database_stands_still_under_load(graph: Graph) -> None:
    at, server = case(graph, "still"), graph.server
    assert server is not None

    def fault() -> None:
        server.freeze()
        refused = failures(at.load)
        until("clients notice", lambda: failures(at.load) >= refused + 5)
        server.thaw()
        until("all is ready", graph.ready)

    await through(at, fault)
    judge(at)


def failures(load: Load) -> int:
    """Requests that failed for a reason of ours."""
    return sum(not reply.is_whole and reply.code not in _REFUSED | {"hung up"} for reply in load.replies)
