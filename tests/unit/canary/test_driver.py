"""The driver against a cluster over HTTP: good and bad revisions, and everything that may be missing or die."""

import json
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from serve_app.canary.values import CanaryError, Memory, Phase
from tests.unit.canary.conftest import REST, Bench


def final(memory: Memory) -> bool:
    return memory.phase.final and not memory.outbox


def slice_of(share: int) -> Any:
    return lambda memory: memory.phase is Phase.SLICE and memory.share == share and memory.reached_ms is not None


def test_a_good_revision_goes_all_the_way_and_never_gets_more_than_it_can_carry(bench: Bench) -> None:
    order = bench.order()
    driver = bench.driver()
    driver.start(order)
    memory = bench.follow(driver, final)
    world = bench.world
    assert memory.phase is Phase.FINISHED
    assert world.shares[:9] == [0, 5, 24, 25, 50, 75, 95, 100, 0]  # 0 at the end: it is the only one
    assert world.pending is None
    assert world.active.name == memory.new
    assert world.overloads == []
    assert bench.options == REST
    shares = [("promoted", share) for share in (5, 24, 50, 75, 95, 100)]
    assert bench.events() == [("started", 0), *shares, ("finished", 100)]
    assert {each["change_id"] for each in world.records.values()} == {"CHG-1"}
    assert world.service["metadata"]["annotations"]["kept"] == "as it is"


@pytest.mark.parametrize(
    ("wrong", "why"), [({"failing": 0.2}, "worse: error"), ({"slow": 0.4}, "worse: ttft")], ids=["fails", "is-slow"]
)
def test_a_bad_revision_goes_back_by_itself_from_its_first_share(
    bench: Bench, wrong: dict[str, float], why: str
) -> None:
    before = bench.world.service["spec"]["rayClusterConfig"]
    bench.world.next_generation = dict(wrong)
    driver = bench.driver()
    driver.start(bench.order())
    memory = bench.follow(driver, final)
    assert memory.phase is Phase.ROLLED_BACK
    assert max(bench.world.shares) == 5
    assert bench.world.service["spec"]["rayClusterConfig"] == before
    assert bench.world.pending is None
    assert bench.world.active.name == "gatehouse-aaaaa"
    assert (bench.world.active.traffic, bench.world.active.capacity) == (100, 100)
    assert bench.options == REST
    (back,) = [each for each in bench.world.records.values() if each["event"] == "rolled_back"]
    assert back["reason"].startswith(why)
    assert bench.events()[-2:] == [("rolled_back", 0), ("finished", 0)]
    assert bench.world.overloads == []


def test_one_that_goes_bad_late_goes_back_without_more_than_the_generation_before_can_carry(bench: Bench) -> None:
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, slice_of(75))
    assert bench.world.pending is not None
    bench.world.pending.failing = 0.3
    assert bench.follow(driver, final).phase is Phase.ROLLED_BACK
    assert bench.world.overloads == []
    assert bench.world.active.name == "gatehouse-aaaaa"


def test_one_that_never_gets_ready_is_taken_back_and_never_got_a_request(bench: Bench) -> None:
    bench.world.next_generation = {"never_well": True}
    driver = bench.driver()
    driver.start(bench.order())
    memory = bench.follow(driver, final)
    assert memory.phase is Phase.ROLLED_BACK
    assert max(bench.world.shares) == 0
    assert bench.world.now_s > 3_600  # warm_s


def test_one_that_stops_running_with_requests_is_taken_back(bench: Bench) -> None:
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, slice_of(5))
    assert bench.world.pending is not None
    bench.world.pending.never_well = True
    memory = bench.follow(driver, final)
    assert memory.phase is Phase.ROLLED_BACK
    (back,) = [each for each in bench.world.records.values() if each["event"] == "rolled_back"]
    assert "not running" in back["reason"]


def test_over_sockets_a_bad_revision_goes_back_as_well(served_bench: Bench) -> None:
    served_bench.world.next_generation = {"failing": 0.3}
    driver = served_bench.driver()
    driver.start(served_bench.order())
    assert served_bench.follow(driver, final).phase is Phase.ROLLED_BACK
    with pytest.raises(CanaryError, match="another name"):
        served_bench.driver().start(served_bench.order(release="2"))


def test_an_address_where_nobody_answers_is_said(bench: Bench) -> None:
    bench.url = "http://127.0.0.1:1"
    with pytest.raises(CanaryError, match="does not answer at http://127.0.0.1:1"):
        bench.driver().look()


# --- what may be missing when it begins ---------------------------------------------------------------------------


def _strategy(bench: Bench) -> None:
    bench.world.service["spec"]["upgradeStrategy"] = {"type": "None"}


def _moving(bench: Bench) -> None:
    bench.options["stepSizePercent"] = 5


def _gone(bench: Bench) -> None:
    bench.world.operator = False
    bench.world.service["metadata"]["generation"] += 1  # somebody has changed it, and nobody looked


def _off(bench: Bench) -> None:
    bench.world.gate = False
    bench.world.pass_s(2)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (_strategy, "no component canary"),
        (_moving, "not at rest"),
        (_gone, "operator has not taken note"),
        (_off, "gate RayServiceIncrementalUpgrade"),
        (lambda bench: setattr(bench.world, "gateway", False), "no Gateway"),
        (lambda bench: setattr(bench.world, "api", False), "answers 503"),
        (lambda bench: setattr(bench.world, "prometheus", False), "Prometheus does not answer"),
        (lambda bench: setattr(bench.world, "scraped", False), "no samples of gatehouse-aaaaa"),
        (lambda bench: setattr(bench.world, "gatehouse", False), "does not record"),
        (lambda bench: setattr(bench.world.active, "never_well", True) or bench.world.pass_s(2), "not ready"),
        (lambda bench: setattr(bench.world.active, "running", 60), "replicas are missing"),
    ],
    ids=["strategy", "moving", "operator", "gate", "gateway", "api", "prometheus", "samples", "audit", "unready",
         "replicas"],
)  # fmt: skip
def test_without_a_way_to_hold_or_to_see_nothing_begins(bench: Bench, break_it: Any, words: str) -> None:
    order = bench.order()
    break_it(bench)
    before = bench.world.service["spec"]["rayClusterConfig"]
    with pytest.raises(CanaryError, match=words):
        bench.driver().start(order)
    assert bench.world.patches == 0
    assert bench.world.service["spec"]["rayClusterConfig"] == before


def test_what_would_start_nothing_or_could_not_be_taken_back_is_refused(bench: Bench) -> None:
    driver = bench.driver()
    with pytest.raises(CanaryError, match="nothing would start"):
        driver.start(bench.order(release="0"))
    with pytest.raises(CanaryError, match="serveConfigV2 differs"):
        driver.start(bench.order(serve_config=bench.order().serve_config.replace("840", "800")))
    assert bench.world.records == {}


def test_one_canary_at_a_time(bench: Bench) -> None:
    driver = bench.driver()
    order = bench.order()
    first = driver.start(order)
    assert driver.start(order) == first  # the same again
    with pytest.raises(CanaryError, match="is open"):
        driver.start(replace(order, id="c-2"))
    bench.follow(driver, final)
    with pytest.raises(CanaryError, match="another name"):
        driver.start(bench.order(release="2"))
    assert driver.start(bench.order(release="2", id="c-2")).phase is Phase.WARMING


# --- what may go away meanwhile -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["prometheus", "scraped", "gateway", "gatehouse", "api"])
def test_what_cannot_be_seen_or_recorded_stops_it_until_it_is_back(bench: Bench, lost: str) -> None:
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, slice_of(5))
    setattr(bench.world, lost, False)
    for _ in range(60):
        try:
            memory = driver.look()
        except CanaryError:
            memory = None
        assert memory is None or memory.phase is Phase.SLICE
        bench.world.pass_s(60)
    assert bench.world.shares[-1] == 5
    assert bench.options == REST
    setattr(bench.world, lost, True)
    assert bench.follow(driver, final).phase is Phase.FINISHED
    held = [each for each in bench.world.records.values() if each["event"] == "held"]
    assert len(held) == (lost in {"prometheus", "scraped", "gateway"})


def test_an_operator_that_ends_leaves_nothing_moving(bench: Bench) -> None:
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, lambda memory: memory.shot is not None and memory.share == 24)
    bench.world.operator = False
    memory = bench.follow(driver, lambda memory: memory.shot is None)
    assert memory.why == "the operator did not move"
    assert bench.options == REST
    bench.world.operator = True
    assert bench.follow(driver, final).phase is Phase.FINISHED


def test_a_revision_is_taken_back_though_nobody_can_record_it(bench: Bench) -> None:
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, slice_of(5))
    bench.world.gatehouse = False
    assert bench.world.pending is not None
    bench.world.pending.failing = 0.5
    memory = bench.follow(driver, lambda memory: memory.phase is Phase.ROLLED_BACK)
    assert bench.world.active.traffic == 100
    assert memory.outbox
    bench.world.gatehouse = True
    bench.follow(driver, final)
    assert bench.events()[-2:] == [("rolled_back", 0), ("finished", 0)]


def test_going_back_needs_no_figures(bench: Bench) -> None:
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, slice_of(50))
    bench.world.prometheus = False
    driver.back("it smells", "CHG-2")
    assert bench.follow(driver, final).phase is Phase.ROLLED_BACK
    assert bench.world.overloads == []
    (back,) = [each for each in bench.world.records.values() if each["event"] == "rolled_back"]
    assert (back["reason"], back["change_id"]) == ("it smells", "CHG-2")


# --- the driver ends ----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


def _killing(driver: Any, at: int, after: bool, count: list[int]) -> Any:
    """A driver whose process ends before or after its request number `at` that changes anything."""

    def wrapped(call: Any) -> Any:
        def limited(*given: Any, **named: Any) -> Any:
            count[0] += 1
            if count[0] == at and not after:
                raise Killed
            done = call(*given, **named)
            if count[0] == at:
                raise Killed
            return done

        return limited

    driver._cluster._patch = wrapped(driver._cluster._patch)
    driver._book.record = wrapped(driver._book.record)
    return driver


@pytest.mark.parametrize("failing", [0.0, 0.3], ids=["good", "bad"])
def test_a_driver_that_ends_at_any_request_is_followed_by_one_that_does_the_rest(bench: Bench, failing: float) -> None:
    """Each driver gets three requests further than nothing: it ends before or after the third one, again and again."""
    order = bench.order()
    bench.world.next_generation = {"failing": failing}
    memory: Memory | None = None
    began = False
    for life in range(400):
        driver = _killing(bench.driver(), 1 + life % 3, life % 2 == 0, [0])
        try:
            if not began:
                driver.start(order)
                began = True
            memory = bench.follow(driver, final)
            break
        except Killed:
            began = began or "gatehouse/canary" in bench.world.service["metadata"]["annotations"]
            bench.world.pass_s(30)
    assert memory is not None
    assert final(memory)
    assert memory.phase is (Phase.ROLLED_BACK if failing else Phase.FINISHED)
    assert bench.world.overloads == []
    assert bench.options == REST
    events = [each for each, _ in bench.events()]
    assert events.count("started") == events.count("finished") == 1
    assert events.count("promoted") == (1 if failing else 6)


def test_a_dead_driver_leaves_a_step_that_can_only_creep(bench: Bench) -> None:
    """The worst moment: the step is asked for, and nobody takes it back. By hand: docs/kuberay.md."""
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, lambda memory: memory.shot is not None and memory.share == 24)
    asked_s, interval_s = bench.world.now_s, bench.options["intervalSeconds"]
    assert interval_s >= 60
    bench.world.pass_s(interval_s - 10)
    assert bench.world.shares[-1] == 24
    assert bench.world.now_s - asked_s < interval_s


def test_the_operator_alone_does_harm_with_a_short_interval(bench: Bench) -> None:
    """The hazard that the driver's rules are against, so that the world is known to have it."""
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, slice_of(5))
    bench.options.update(stepSizePercent=5, intervalSeconds=1)
    bench.world.pass_s(3_000)
    assert bench.world.shares[-2] == 100
    assert bench.world.overloads


# --- others -------------------------------------------------------------------------------------------------------


def test_somebody_else_s_specification_stops_it(bench: Bench) -> None:
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, slice_of(5))
    bench.world.service["spec"]["rayClusterConfig"]["rayVersion"] = "2.61.0"
    memory = bench.follow(driver, lambda memory: memory.held is not None)
    assert memory.held == "rayClusterConfig was changed by somebody else"
    for _ in range(20):
        driver.look()
        bench.world.pass_s(600)
    assert bench.world.shares[-1] == 5


def test_another_strategy_stops_it_and_the_way_back_is_there(bench: Bench) -> None:
    before = bench.world.service["spec"]["rayClusterConfig"]
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, slice_of(5))
    bench.world.service["spec"]["upgradeStrategy"] = {"type": "None"}
    assert bench.follow(driver, lambda memory: memory.held is not None).held == "upgradeStrategy is None"
    driver.back("that was not agreed", "CHG-5")
    assert bench.world.service["spec"]["rayClusterConfig"] == before


def test_options_that_somebody_left_moving_are_put_to_rest(bench: Bench) -> None:
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, slice_of(5))
    bench.options.update(stepSizePercent=50, intervalSeconds=60)
    driver.look()
    assert bench.options == REST


def test_a_hold_is_kept_until_it_is_ended_and_does_not_keep_a_bad_revision(bench: Bench) -> None:
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, slice_of(24))
    driver.hold("lunch", "CHG-3")
    for _ in range(30):
        assert driver.look() is not None
        bench.world.pass_s(300)
    assert bench.world.shares[-1] == 24
    driver.resume("back again", "CHG-3")
    bench.follow(driver, slice_of(50))
    driver.hold("again", "CHG-3")
    assert bench.world.pending is not None
    bench.world.pending.failing = 0.5
    assert bench.follow(driver, final).phase is Phase.ROLLED_BACK


def test_two_drivers_are_one(bench: Bench) -> None:
    one, other = bench.driver(), bench.driver()
    one.start(bench.order())
    memory: Memory | None = None
    while memory is None or not final(memory):
        for driver in (one, other):
            try:
                memory = driver.look()
            except CanaryError:
                continue
        bench.world.pass_s(10)
    assert memory.phase is Phase.FINISHED
    assert [each for each, _ in bench.events()].count("promoted") == 6


def test_a_promotion_that_nobody_asked_for_is_on_record(bench: Bench) -> None:
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, slice_of(5))
    assert bench.world.pending is not None
    bench.world.active, bench.world.pending = bench.world.pending, None
    bench.world.active.traffic = bench.world.active.capacity = bench.world.active.running = 100
    bench.world.pass_s(2)
    assert bench.follow(driver, final).phase is Phase.FINISHED
    assert [each["reason"] for each in bench.world.records.values()][-1].endswith("the driver did not ask for it")


def test_a_damaged_copy_of_the_last_good_specification_is_not_put_back(bench: Bench) -> None:
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, slice_of(5))
    annotations = bench.world.service["metadata"]["annotations"]
    annotations["gatehouse/canary-last-good"] = annotations["gatehouse/canary-last-good"][:-8] + "AAAAAAA="
    with pytest.raises(CanaryError, match="damaged"):
        driver.back("now", "CHG-4")
    assert bench.options == REST


def test_by_hand_with_the_commands_of_the_document(bench: Bench) -> None:
    """The driver died while a step was asked for. docs/kuberay.md, "By hand": rest, put the copy back, one step."""
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, lambda memory: memory.shot is not None and memory.share == 24)
    bench.world.pass_s(20)
    bench.options.update(stepSizePercent=0, intervalSeconds=86_400)
    packed = bench.world.service["metadata"]["annotations"]["gatehouse/canary-last-good"]
    shown = subprocess.run(
        ["/bin/sh", "-c", "base64 -d | gunzip"], input=packed, capture_output=True, text=True, check=True
    )
    bench.world.service["spec"]["rayClusterConfig"] = json.loads(shown.stdout)["rayClusterConfig"]
    bench.world.pass_s(60)
    assert bench.world.pending is not None
    bench.options.update(stepSizePercent=25, intervalSeconds=60)
    bench.world.pass_s(120)
    assert bench.world.pending is None
    assert (bench.world.active.name, bench.world.active.traffic) == ("gatehouse-aaaaa", 100)
    assert bench.world.overloads == []


def test_a_memory_that_is_not_ours_is_said_so(bench: Bench) -> None:
    bench.world.service["metadata"]["annotations"]["gatehouse/canary"] = "{}"
    with pytest.raises(CanaryError, match="cannot be read"):
        bench.driver().look()
