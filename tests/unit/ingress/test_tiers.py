"""What a replica sees of the tiers by its own calls, how long callers wait, and what is set aside for answers."""

import pytest

from deployments.clock import FixedClock
from deployments.errors import EngineFailed, EngineOverloaded, EngineTimeout, GatehouseError, InvalidRequest
from deployments.ingress.deadline import patience_s
from deployments.ingress.reserving import Reserves
from deployments.ingress.settings import LoadSettings
from deployments.ingress.tiers import Tiers
from deployments.ports import Effort, ModelId, Tier, TierState
from tests.fakes import BASE, STRONG, ScriptedEngine

EXTRA = ModelId("demo-embed")
BROKEN = EngineFailed("broken")


class Seen:
    """Tiers over engines that are never asked."""

    def __init__(self, **settings: object) -> None:
        self.clock = FixedClock()
        self.strong = ScriptedEngine()
        engines = {BASE: ScriptedEngine(), STRONG: self.strong, EXTRA: ScriptedEngine()}
        ranked = [(Tier.BASE, BASE), (Tier.STRONG, STRONG)]
        self.tiers = Tiers(engines, ranked, LoadSettings.model_validate(settings), self.clock)

    def fail(self, error: GatehouseError, model: ModelId = STRONG, times: int = 1) -> None:
        for _ in range(times):
            self.tiers.begin(model, True).failed(error)

    def answer(self, ms: int, wait_ms: int = 0) -> None:
        call = self.tiers.begin(STRONG, True)
        self.clock.advance(wait_ms)
        call.spoke()
        self.clock.advance(ms - wait_ms)
        call.completed()

    @property
    def state(self) -> TierState:
        return self.tiers.view()[Tier.STRONG]


def test_at_first_nothing_is_wrong_and_only_tiers_are_told() -> None:
    assert Seen().tiers.view() == {Tier.BASE: TierState(), Tier.STRONG: TierState()}


@pytest.mark.parametrize("error", [BROKEN, EngineTimeout("late")], ids=["failed", "late"])
def test_failures_in_a_row_take_a_tier_down_and_one_call_finds_out(error: GatehouseError) -> None:
    seen = Seen(failures=3, down_s=10)
    seen.fail(error, times=2)
    assert seen.state.up
    seen.answer(5)
    seen.fail(error, times=2)
    assert seen.state.up  # not in a row
    seen.fail(error)
    assert not seen.state.up
    assert seen.tiers.view()[Tier.BASE].up
    seen.clock.advance(10_000)
    assert seen.state.up
    seen.fail(error)
    assert not seen.state.up  # one more is enough now
    seen.clock.advance(10_000)
    seen.answer(5)
    seen.fail(error)
    assert seen.state.up


def test_what_a_client_did_and_a_hang_up_are_no_failures() -> None:
    seen = Seen(failures=1)
    seen.fail(InvalidRequest("bad"))
    call = seen.tiers.begin(STRONG, True)
    call.left()
    call.failed(BROKEN)  # it had ended
    assert seen.state == TierState()


def test_a_refusal_makes_a_tier_full_for_as_long_as_it_says() -> None:
    seen = Seen(failures=1)
    seen.fail(EngineOverloaded("busy", 4))
    assert (seen.state.full, seen.state.up) == (True, True)
    seen.clock.advance(3_999)
    assert seen.state.full
    seen.clock.advance(1)
    assert not seen.state.full


def test_a_cold_tier_is_told() -> None:
    seen = Seen()
    seen.strong.is_cold = True
    assert seen.state.cold


def test_the_wait_of_streams_is_the_pressure_and_is_forgotten() -> None:
    seen = Seen(queue_s=5, full_at=2)
    for _ in range(4):
        seen.answer(11_000, wait_ms=10_000)
    assert seen.state.pressure == 0.0  # too few to mean something
    seen.answer(11_000, wait_ms=10_000)
    assert (seen.state.pressure, seen.state.full) == (2.0, True)
    seen.clock.advance(61_000)
    assert seen.state.pressure == 0.0


def test_streams_that_still_wait_count_once_they_are_slow() -> None:
    seen = Seen(queue_s=5)
    for _ in range(5):
        seen.tiers.begin(STRONG, True)
        seen.tiers.begin(STRONG, False)  # says nothing of its first byte
    seen.clock.advance(4_999)
    assert (seen.state.pressure, seen.state.in_flight) == (0.0, 10)
    seen.clock.advance(2_501)
    assert seen.state.pressure == 1.5


def test_unfinished_calls_are_pressure_where_a_limit_is_set() -> None:
    seen = Seen(in_flight=4)
    calls = [seen.tiers.begin(STRONG, False) for _ in range(6)]
    assert (seen.state.pressure, seen.state.full) == (1.5, False)
    for call in calls:
        call.left()
    assert (seen.state.pressure, seen.state.in_flight) == (0.0, 0)


def test_the_usual_time_is_that_of_three_in_four_whole_answers() -> None:
    seen = Seen()
    for ms in (1_000, 2_000, 3_000, 4_000):
        seen.answer(ms)
    seen.fail(BROKEN)
    assert seen.tiers.usual_ms(STRONG) is None
    for ms in (5_000, 6_000, 7_000, 8_000):
        seen.answer(ms)
    assert seen.tiers.usual_ms(STRONG) == seen.state.ms == 6_000
    assert seen.tiers.usual_ms(BASE) is None


@pytest.mark.parametrize(
    ("headers", "stream", "patience"),
    [
        ({}, False, None),
        ({"x-stainless-timeout": "600"}, True, 600.0),
        ({"x-stainless-timeout": "600", "x-stainless-read-timeout": "30"}, False, 30.0),
        ({"x-stainless-timeout": "600", "x-stainless-read-timeout": "30"}, True, 600.0),
        ({"x-stainless-read-timeout": "30"}, True, None),
        ({"x-stainless-timeout": "1e300"}, False, 86_400.0),
        *(({"x-stainless-timeout": text}, False, None) for text in ("", "soon", "0", "-1", "nan", "inf")),
    ],
)
def test_how_long_a_caller_waits(headers: dict[str, str], stream: bool, patience: float | None) -> None:
    assert patience_s(headers, stream) == patience


def test_what_is_set_aside_follows_the_answers_at_the_same_effort() -> None:
    reserves = Reserves(1_024)
    for number in range(19):
        reserves.add(Effort.HIGH, 5_000 + number)
    assert reserves.tokens(Effort.HIGH) == 1_024
    reserves.add(Effort.HIGH, 90_000)
    assert reserves.tokens(Effort.HIGH) == 5_017  # nine of ten
    assert reserves.tokens(Effort.LOW) == reserves.tokens(None) == 1_024
    for _ in range(20):
        reserves.add(None, 7)
    assert reserves.tokens(None) == 1_024
