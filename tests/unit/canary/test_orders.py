"""A driver that stands in the cluster: what is ordered begins once, is driven to its end, and is never begun again."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from serve_app.canary import orders
from serve_app.canary.orders import Ordered, config_map, ordered
from serve_app.canary.values import CanaryError, Phase
from serve_app.cli import canary as cli
from serve_app.config import ROOT
from tests.unit.canary.conftest import TERMS, Bench
from tests.unit.canary.test_cli import manifest
from tests.unit.canary.world import EPOCH

DAY_MS = 86_400_000


class Killed(BaseException):
    """The pod ends here."""


def written(bench: Bench, folder: Path, valid_ms: int = DAY_MS, **change: Any) -> Path:
    """An order, where kubelet puts it."""
    made = ordered(bench.order(**change), (EPOCH + int(bench.world.now_s)) * 1000 + valid_ms)
    path = folder / orders.KEY
    path.write_text(config_map(made, "gatehouse")["data"][orders.KEY])
    return path


def stand(bench: Bench, path: Path, until: Callable[[], bool], most: int = 2_000) -> list[str]:
    """Let a new driver look until something is so; what it said."""
    looks = [0]

    def pause() -> bool:
        bench.world.pass_s(60)
        looks[0] += 1
        assert looks[0] < most, "it never was"
        return until()

    lines = list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.typer, "echo", lines.append)
        cli._stand(bench.driver(), path, pause)
    return lines


def phase(bench: Bench) -> Phase | None:
    memory = bench.driver().memory()
    return None if memory is None or memory.outbox else memory.phase


def test_an_order_is_carried_out_and_not_taken_up_again(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / orders.KEY
    assert stand(bench, path, lambda: True) == ["no canary is open; nothing is ordered"]
    assert bench.world.patches == 0
    written(bench, tmp_path)
    lines = stand(bench, path, lambda: phase(bench) is Phase.FINISHED)
    assert lines[0] == "c-1 begins, under CHG-1"
    assert bench.events()[0] == ("started", 0)
    assert bench.events()[-1] == ("finished", 100)
    assert bench.world.overloads == []
    patches = bench.world.patches
    assert stand(bench, path, lambda: True) == ["the canary c-1 is finished; the order c-1 was carried out"]
    # Another one by hand: the order that is still lying there is not the last one any more, and is known all the same.
    other = bench.driver()
    other.start(bench.order(release="2", id="c-2"))
    bench.follow(other, lambda memory: memory.phase.final and not memory.outbox, every_s=60)
    patches = bench.world.patches
    assert stand(bench, path, lambda: True) == ["the canary c-2 is finished; the order c-1 was carried out"]
    assert bench.world.patches == patches
    written(bench, tmp_path, release="3", id="c-3")
    stand(bench, path, lambda: phase(bench) is Phase.FINISHED)
    assert [event for event, _ in bench.events()].count("started") == 3


def test_a_bad_one_goes_back_and_stays_back(bench: Bench, tmp_path: Path) -> None:
    bench.world.next_generation = {"failing": 0.3}
    path = written(bench, tmp_path)
    stand(bench, path, lambda: phase(bench) is Phase.ROLLED_BACK)
    assert stand(bench, path, lambda: True) == ["the canary c-1 is rolled_back; the order c-1 was carried out"]
    assert bench.world.pending is None
    assert bench.world.active.name == "gatehouse-aaaaa"


def test_a_pod_that_is_killed_at_any_look_is_followed_by_one_that_goes_on(bench: Bench, tmp_path: Path) -> None:
    path = written(bench, tmp_path)
    lives = 0
    while phase(bench) is not Phase.FINISHED:
        lives += 1
        driver = bench.driver()
        count = [0]

        def dying(call: Any, count: list[int] = count) -> Any:
            def limited(*given: Any, **named: Any) -> Any:
                count[0] += 1
                if count[0] > 2:
                    raise Killed
                return call(*given, **named)

            return limited

        driver._cluster._patch = dying(driver._cluster._patch)  # type: ignore[method-assign]
        driver._book.record = dying(driver._book.record)  # type: ignore[method-assign]
        try:
            for _ in range(500):
                orders.look(driver, path)
                bench.world.pass_s(60)
                if phase(bench) is Phase.FINISHED:
                    break
        except Killed:
            bench.world.pass_s(30)
        assert lives < 60
    assert lives > 3
    assert [event for event, _ in bench.events()] == ["started", *["promoted"] * 6, "finished"]
    assert bench.world.overloads == []


def test_an_order_is_void_after_its_time(bench: Bench, tmp_path: Path) -> None:
    path = written(bench, tmp_path, valid_ms=3_600_000)
    bench.world.pass_s(3_700)
    (line,) = stand(bench, path, lambda: True)
    assert "was valid until" in line
    assert line.endswith("and is not begun")
    assert bench.world.patches == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is refused"),
        ('{"id": "c"}', "is missing"),
        ('{"id": "not a name", "change_id": "C"}', "'id'"),
    ],
    ids=["json", "parts", "name"],
)
def test_an_order_that_cannot_be_read_moves_nothing_and_holds_nothing_up(
    bench: Bench, tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / orders.KEY
    path.write_text(text)
    (line,) = stand(bench, path, lambda: True)
    assert line.startswith("nothing is moved: the order ")
    assert words in line
    assert bench.world.patches == 0
    bench.world.next_generation = {"failing": 0.3}
    bench.driver().start(bench.order())
    stand(bench, path, lambda: phase(bench) is Phase.ROLLED_BACK)  # the open one is driven all the same


def test_what_cannot_begin_is_said_and_tried_again(bench: Bench, tmp_path: Path) -> None:
    path = written(bench, tmp_path)
    bench.world.gatehouse = False
    lines = stand(bench, path, lambda: True)
    assert lines[0].startswith("nothing is moved: Gatehouse does not record the step")
    assert bench.world.patches == 0
    bench.world.gatehouse = True
    stand(bench, path, lambda: phase(bench) is Phase.FINISHED)


def test_the_end_of_the_last_one_is_recorded_before_another_begins(bench: Bench) -> None:
    driver = bench.driver()
    driver.start(bench.order())
    bench.follow(driver, lambda memory: memory.phase is Phase.SLICE)
    driver.back("enough", "CHG-1")
    bench.world.gatehouse = False
    bench.follow(driver, lambda memory: memory.phase.final, every_s=60)
    with pytest.raises(CanaryError, match="not in the audit log yet"):
        driver.start(bench.order(release="2", id="c-2"))
    bench.world.gatehouse = True
    bench.follow(driver, lambda memory: memory.phase.final and not memory.outbox)
    driver.start(bench.order(release="2", id="c-2"))
    assert bench.events()[-2:] == [("finished", 0), ("started", 0)]


def test_the_command_writes_what_the_driver_reads(served_bench: Bench, tmp_path: Path) -> None:
    terms = tmp_path / "terms.json"
    terms.write_text(TERMS.model_dump_json())
    words = ["order", "c-9", manifest(served_bench, tmp_path), "--change-id", "CHG-9", "--terms", str(terms)]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    found = yaml.safe_load(done.stdout)
    assert (found["kind"], found["metadata"]) == ("ConfigMap", {"name": "gatehouse-canary", "namespace": "gatehouse"})
    read = Ordered.model_validate_json(found["data"][orders.KEY])
    expected = served_bench.order()
    assert read.to_order().cluster == expected.cluster
    assert (read.id, read.change_id, read.terms) == ("c-9", "CHG-9", TERMS)
    assert timedelta(hours=23) < read.until - datetime.now(UTC) <= timedelta(hours=24)
    wrong = CliRunner().invoke(cli.app, ["order", "not a name", *words[2:]])
    assert (wrong.exit_code, "'id'" in wrong.stderr) == (2, True)
    large = expected.serve_config + "# " + "x" * 1_000_000
    with pytest.raises(CanaryError, match="too large"):
        config_map(ordered(served_bench.order(serve_config=large), 0), "gatehouse")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_pod_that_is_told_to_end_ends(served_bench: Bench, tmp_path: Path, number: signal.Signals) -> None:
    """As its own process, like the first one of a pod: between two looks, with status 0."""
    environment = {**os.environ, "GATEHOUSE_KUBE_API": str(served_bench.url), "GATEHOUSE_KEY": "key",
                   "GATEHOUSE_PROMETHEUS": str(served_bench.url), "GATEHOUSE_URL": str(served_bench.url)}  # fmt: skip
    words = [
        sys.executable,
        "-m",
        "serve_app",
        "canary",
        "run",
        "--orders",
        str(tmp_path / orders.KEY),
        "--every",
        "600",
    ]
    with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "nothing is ordered" in process.stdout.readline()
            process.send_signal(number)
            assert process.wait(120) == 0
        finally:
            process.kill()


def test_two_ways_to_be_run_are_one_too_many(served_bench: Bench, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["run", "--once", "--orders", str(tmp_path / "x")])
    assert (done.exit_code, "two ways" in done.stderr) == (2, True)


def test_an_order_holds_no_more_than_it_says(bench: Bench) -> None:
    made = json.loads(ordered(bench.order(), 0).model_dump_json())
    assert made.keys() == {"id", "change_id", "by", "until", "terms", "rayClusterConfig", "serveConfigV2"}
    with pytest.raises(ValueError, match="extra"):
        Ordered.model_validate(made | {"more": 1})
