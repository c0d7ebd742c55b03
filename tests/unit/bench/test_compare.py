"""A comparison without its servers: turns, numbers, doubts, tables and files."""

import asyncio
import io
import json
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from serve_app.bench import plot
from serve_app.bench.compare import ComparePlan, Comparison, _doubts, idle_shares, numbers_from, order, shape_for
from serve_app.bench.load import BenchRefused, Endpoint, Level, Shape, Window
from serve_app.bench.machine import Machine, available_gib, cpu_between, cpu_seconds, machine
from serve_app.bench.report import compare_tables, markdown, number, run_lines, run_table
from serve_app.bench.stats import figures
from serve_app.bench.stream import CUT, OK, Arrival, Sample
from serve_app.cli.bench import app
from tests.unit.bench.sse import Script, serving

MACHINE = Machine("a CPU", 2, 24.0, 16.0, (0.5, 0.4, 0.3), "Linux", "3.11", {"ray": "2.60.0"})
LEVELS = (Level(streams=1, requests=4), Level(streams=8, requests=16))


def window(scale: float, ending: str = OK, cpu_s: float = 0.2) -> Window:
    arrivals = tuple(Arrival(scale * (0.1 + 0.01 * step), 1) for step in range(5))
    sample = Sample(ending, 200, 0.0, arrivals[0].at_s, arrivals[-1].at_s, arrivals, 7, 10, 5, 0)
    return Window((sample,), scale, cpu_s, {"engine": scale})


def comparison() -> Comparison:
    result = Comparison(ComparePlan(("vllm", "gatehouse"), LEVELS, rounds=2), MACHINE)
    for level in LEVELS:
        result.runs[level.label] = {"vllm": [window(1.0), window(1.2)], "gatehouse": [window(1.1), window(1.5)]}
    result.not_run["litellm"] = "no interpreter"
    result.differs["gatehouse"] = "gates"
    return result


def test_turns_rotate() -> None:
    assert [order(["a", "b", "c"], turn) for turn in range(4)] == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"],
    ]  # fmt: skip


def test_no_request_number_comes_twice() -> None:
    starts = sorted(numbers_from(level, turn) for level in range(4) for turn in range(50))
    assert len(set(starts)) == len(starts)
    assert min(after - before for before, after in zip(starts, starts[1:], strict=False)) >= 9_000
    assert starts[0] >= 9_000  # below are the warm-up's


def test_every_server_has_a_letter_of_its_own() -> None:
    salts = {shape_for(Shape(), name).salt for name in ("vllm", "gatehouse", "ray-llm", "litellm")}
    assert len(salts) == 4


@pytest.mark.parametrize(
    ("targets", "levels", "rounds"),
    [
        (("vllm", "x"), LEVELS, 1),
        ((), LEVELS, 1),
        (("vllm", "vllm"), LEVELS, 1),
        (("vllm",), (), 1),
        (("vllm",), LEVELS, 0),
    ],
)
def test_plans_that_make_no_sense(targets, levels, rounds) -> None:
    with pytest.raises(BenchRefused):
        ComparePlan(targets, levels, rounds=rounds)


def test_the_result_has_figures_ratios_and_every_round() -> None:
    data = json.loads(json.dumps(comparison().to_json()))
    ours = data["results"]["8 streams"]["gatehouse"]
    assert ours["ratio_to_vllm"]["TTFT p50"] == pytest.approx(1.3 / 1.1)
    assert ours["ratio_range_over_rounds"]["TTFT p50"] == pytest.approx([1.1, 1.25])
    assert len(ours["rounds"]) == 2
    assert data["results"]["8 streams"]["vllm"]["ratio_to_vllm"]["E2E p50"] == pytest.approx(1.0)
    assert data["machine"]["cores"] == 2


def test_tables_for_people() -> None:
    text = markdown(comparison())
    assert "| TTFT p50, ms | 110 | 130 (1.18x) |" in text
    assert "- litellm: no interpreter" in text
    assert "- gatehouse: gates" in text
    assert "**1 stream**" in text
    console = Console(file=io.StringIO(), width=120)
    for table in compare_tables(comparison()):
        console.print(table)
    assert "130 (1.18x)" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_ratio_that_rounds_do_not_agree_on_is_marked() -> None:
    result = comparison()
    result.runs["1 stream"]["gatehouse"] = [window(0.9), window(1.5)]
    one, eight = markdown(result).split("**8 streams**")
    assert "| TTFT p50, ms | 110 | 120 (~1.09x) |" in one
    assert "(~" not in eight


def test_what_a_server_uses_while_it_waits_is_told() -> None:
    result = comparison()
    result.idle["gatehouse"] = 0.0312
    assert "- gatehouse: 3.1%" in markdown(result)
    assert result.to_json()["idle_share_of_a_core"] == {"gatehouse": 0.0312}


async def test_idle_cpu_is_that_of_the_servers_processes() -> None:
    busy = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
    try:
        ends = {"busy": Endpoint("busy", "", "m", pids=(busy.pid,)), "none": Endpoint("none", "", "m")}
        shares = {"busy": 0.0}
        for _ in range(100):  # a machine that is full gives it no turn for a while
            shares = await idle_shares(ends, 0.1)
            if shares["busy"]:
                break
    finally:
        busy.kill()
        await busy.wait()
    assert shares["busy"] > 0
    assert shares["none"] == 0


def test_without_a_bare_server_there_are_no_ratios() -> None:
    result = comparison()
    for by_name in result.runs.values():
        del by_name["vllm"]
    assert "x)" not in markdown(result)
    assert result.to_json()["results"]["1 stream"]["gatehouse"]["ratio_to_vllm"] is None


def test_a_single_run_says_what_failed_and_when_the_client_is_the_limit() -> None:
    measured = figures([window(1.0), window(1.0, CUT, cpu_s=1.9)])
    lines = "\n".join(run_lines(measured))
    assert "1 of 2 requests complete" in lines
    assert f"failed: 1 x {CUT}" in lines
    assert "client CPU: 105% of a core" in lines
    assert "WARNING" in lines
    assert "server CPU: 400.000 ms per output token, 142857 us per streamed event" in lines
    console = Console(file=io.StringIO(), width=120)
    console.print(run_table("1 stream", measured))
    assert "TTFT ms" in console.file.getvalue()  # type: ignore[attr-defined]


def test_what_makes_figures_doubtful_is_said() -> None:
    result = comparison()
    assert _doubts(result) == []
    result.runs["1 stream"]["gatehouse"] = [window(1.0, cpu_s=0.7), window(1.0, CUT)]
    result.runs["8 streams"]["gatehouse"] = [
        Window((Sample(OK, 200, 0.0, 0.1, 0.2, (Arrival(0.1, 1),), 3, 1, 50),), 1.0, 0.1)
    ]
    found = "\n".join(_doubts(result))
    assert "1 stream, gatehouse: 1 of 2 requests failed" in found
    assert "8 streams, gatehouse: replies have 10.00 times the tokens" in found


def test_numbers_are_short() -> None:
    assert [number(value) for value in (None, 0.123, 9.999, 12.34, 1234.5)] == ["-", "0.12", "10.00", "12.3", "1234"]


def test_labels_of_lines_stay_apart() -> None:
    ends = [(1.0, 0.0, "a", ""), (1.1, 0.0, "b", ""), (5.0, 0.0, "c", "")]
    assert plot.apart(ends, 0.5) == [1.0, 1.5, 5.0]


def test_cpu_of_a_process_tree() -> None:
    before = cpu_seconds([os.getpid()])
    sum(number * number for number in range(2_000_000))
    used = cpu_between(before, cpu_seconds([os.getpid()]))
    assert any(pid == os.getpid() for pid, _ in before)
    assert sum(used.values()) > 0
    assert cpu_between({(1, "a"): 5.0}, {(1, "a"): 6.5, (2, "a"): 1.0, (3, "b"): 0.5}) == {"a": 2.5, "b": 0.5}


def test_facts_of_this_machine(tmp_path: Path) -> None:
    here = machine()
    assert here.cores >= 1
    assert "cores" in here.sentence
    (tmp_path / "meminfo").write_text("MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\n")
    assert available_gib(tmp_path) == 1.0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["run", "--url", "http://10.1.1.1:80"], "--allow-remote"),
        (["run", "--streams", "a"], "not a list of numbers"),
        (["run", "--streams", ""], "nothing to do"),
        (["run", "--api", "x"], "one of chat, completions"),
        (["compare", "--no-plot", "--targets", "nobody"], "targets are"),
        (["compare", "--no-plot", "--engine", "x"], "vllm or synthetic"),
    ],
)
def test_the_command_line_refuses_in_one_sentence(arguments: list[str], word: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert word in result.output
    assert "Traceback" not in result.output


def test_a_plot_names_the_extra_when_matplotlib_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BenchRefused, match="extra `bench`"):
        plot.require_matplotlib()


async def run_command(script: Script, *arguments: str):
    async with serving(script) as url:
        command = ["run", "--url", url, "--model", "m", "--key-env", "A_KEY", *arguments]
        return await asyncio.to_thread(CliRunner().invoke, app, command, env={"A_KEY": "hidden-key", "COLUMNS": "200"})


async def test_a_run_from_the_command_line(tmp_path: Path) -> None:
    script = Script()
    file = tmp_path / "run.json"
    arguments = ["--streams", "1,2", "--rate", "200", "--requests", "5", "--warm-up", "2", "--json", str(file)]
    result = await run_command(script, *arguments, "--pid", str(os.getpid()))
    assert result.exit_code == 0, result.output
    data = json.loads(file.read_text())
    assert list(data["results"]) == ["1 stream", "2 streams", "200 req/s"]
    assert [each["complete"] for each in data["results"].values()] == [5, 5, 5]
    assert data["results"]["1 stream"]["cached_tokens_per_request"] == 4
    assert len(script.requests) == 17
    assert {headers["authorization"] for _, headers, _ in script.requests} == {"Bearer hidden-key"}
    assert len({body["messages"][0]["content"] for _, _, body in script.requests}) == 17
    assert "hidden-key" not in result.output + file.read_text()


async def test_a_run_without_one_reply_fails() -> None:
    result = await run_command(Script((b"{}",), status=503), "--streams", "2", "--requests", "4")
    assert result.exit_code == 1
    assert "4 x status 503" in result.output
    assert "no request was answered completely" in result.output
