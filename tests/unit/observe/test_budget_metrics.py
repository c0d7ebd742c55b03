"""What a scrape says of budgets, and of the pace of streams."""

import httpx2

from deployments.errors import PartUnavailable
from deployments.limits import Budget, BudgetState, Unit, Window
from deployments.ports import ModelId
from serve_app.api.factory import create_api
from serve_app.api.metrics import Counters
from tests.fakes import ScriptedEngine, World


def state(name: str, used: int, reserved: int = 0, **fields: object) -> BudgetState:
    given: dict[str, object] = {"team": None, "key_id": None, "unit": Unit.TOKENS, **fields}
    return BudgetState(Budget(name, "secret-tenant", amount=100, window=Window.DAY, **given), 0, None, used, reserved)  # type: ignore[arg-type]


STATES = [
    state("bdg_00000000000000aa", 50, 30),
    state("bdg_b", 120, unit=Unit.MICROS, team="secret-team", hard=False),
    state("bdg_c", 79, key_id="key_secret"),
    state("bdg_d", 80, key_id="key_other"),
    state("bdg_e", 100, key_id="key_third"),
]


async def scraped(world: World) -> dict[str, float]:
    transport = httpx2.ASGITransport(create_api(world.surface()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        text = (await http.get("/metrics")).raise_for_status().text
    rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in rows if "budget" in name or "ledger" in name}


async def test_budgets_of_tenants_and_teams_are_series_and_those_of_keys_are_counted() -> None:
    world = World(ScriptedEngine([]))

    async def budgets(tenant: object) -> object:
        assert tenant is None
        return STATES

    world.ledger.budgets = budgets  # type: ignore[method-assign,assignment]
    a = '{budget="bdg_00000000000000aa",hard="true",scope="tenant",unit="tokens"}'
    # A name that somebody chose may be a tenant's: everybody may read this.
    b = '{budget="cacf4a33ddfd5b0f",hard="false",scope="team",unit="micros"}'
    assert {_sorted(name): value for name, value in (await scraped(world)).items()} == {
        "gatehouse_ledger_up": 1,
        f"gatehouse_budget_used_ratio{a}": 0.5,
        f"gatehouse_budget_used_ratio{b}": 1.2,
        f"gatehouse_budget_remaining{a}": 20,
        f"gatehouse_budget_remaining{b}": 0,
        'gatehouse_key_budgets{state="ok"}': 1,
        'gatehouse_key_budgets{state="near"}': 1,
        'gatehouse_key_budgets{state="spent"}': 1,
    }


async def test_a_ledger_that_is_away_is_told_and_no_figure_of_before_is_shown() -> None:
    world, answers = World(ScriptedEngine([])), [STATES]

    async def budgets(tenant: object) -> object:
        del tenant
        if not answers:
            raise PartUnavailable("The key ledger is not available.")
        return answers.pop()

    world.ledger.budgets = budgets  # type: ignore[method-assign,assignment]
    assert (await scraped(world))["gatehouse_ledger_up"] == 1
    assert await scraped(world) == {"gatehouse_ledger_up": 0}


def test_nothing_is_said_of_a_ledger_that_nobody_has_asked() -> None:
    assert not [family for family in Counters().registry.collect() if "ledger" in family.name]


def test_the_pace_of_a_stream_is_counted_by_model() -> None:
    counters = Counters()
    counters.paced(ModelId("m"), 0.04)
    name = "gen_ai_server_time_per_output_token_seconds"
    assert counters.registry.get_sample_value(f"{name}_sum", {"model": "m"}) == 0.04
    assert counters.registry.get_sample_value(f"{name}_bucket", {"model": "m", "le": "0.03"}) == 0
    assert counters.registry.get_sample_value(f"{name}_bucket", {"model": "m", "le": "0.05"}) == 1


def _sorted(name: str) -> str:
    """The labels of a sample in alphabetical order."""
    head, brace, rest = name.partition("{")
    return f"{head}{{{','.join(sorted(rest.rstrip('}').split(',')))}}}" if brace else name
