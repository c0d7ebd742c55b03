"""`gatehouse size` as it is typed."""

import ast
import asyncio
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.size import app, card_prices
from serve_app.cli.size_text import duration_s, numbers, tokens, whole
from serve_app.config import ROOT
from serve_app.sizing import constants
from serve_app.sizing.check import COMPARED
from tests.unit.bench.sse import Script

_RUN = CliRunner(env={"COLUMNS": "200"})
_ASKED = ["--model", "gpt-oss-120b", "--sessions", "50", "--context", "32k"]


def test_a_plan_is_a_range_and_has_no_price_of_its_own() -> None:
    said = _RUN.invoke(app, _ASKED)
    assert said.exit_code == 0
    assert "2 x h100" in said.output
    assert "1 to 2" in said.output
    assert "No prices are assumed" in said.output
    assert "1,152 MiB in 18 layers of full attention, 5.1 MiB in 18 with a window of 128 tokens" in said.output
    assert "an hour" not in said.output


def test_a_price_is_multiplied_by_the_range() -> None:
    said = _RUN.invoke(app, [*_ASKED, "--gpu-hour", "2.5"])
    assert "2 x h100: 5.00 to 10.00 an hour, 3,650 to 7,300 a month, by your price of 2.5." in said.output


def test_json_holds_every_card_and_case() -> None:
    said = _RUN.invoke(app, [*_ASKED, "--gpu", "h100,l40s", "--gpu-hour", "l40s=1.2", "--json"])
    document = json.loads(said.output)
    assert set(document["gpus"]) == {"h100", "l40s"}
    first = document["gpus"]["h100"][0]
    assert first["tensor_parallel"] == 2
    assert set(first["cases"]) == {"low", "mid", "high"}
    assert 0 < first["fit"]["activation_bytes"] < first["fit"]["reserve_bytes"]
    assert document["request_cache_bytes"] == {"full_layers": 32_768 * 36_864, "window_layers": 144 * 36_864}
    assert first["cost"] is None
    assert document["gpus"]["l40s"][0]["cost"]["hour"][0] > 0


def test_a_context_that_the_model_does_not_have_is_no_matter_of_gpus() -> None:
    said = _RUN.invoke(app, ["--model", "gpt-oss-20b", "--sessions", "5", "--context", "131073"])
    assert said.exit_code == 2
    assert "has a window of 131,072 tokens: --context cannot be 131,073." in said.output
    assert _RUN.invoke(app, ["--model", "gpt-oss-20b", "--sessions", "5", "--context", "128k"]).exit_code == 0


def test_targets_that_cannot_be_met_are_a_failure_with_reasons() -> None:
    said = _RUN.invoke(app, [*_ASKED, "--itl", "1ms"])
    assert said.exit_code == 1
    assert "none will do" in said.output
    assert "case: a token takes" in said.output


@pytest.mark.parametrize(
    "wrong",
    [["--model", "llama"], ["--context", "many"], ["--gpu", "abacus"], ["--gpu-hour", "free"], ["--ttft", "soon"]],
    ids=lambda wrong: wrong[0].strip("-"),
)
def test_what_cannot_be_read_is_said_in_one_sentence(wrong: list[str]) -> None:
    said = _RUN.invoke(app, wrong)
    assert said.exit_code == 2
    assert said.output.startswith("gatehouse: ")
    assert len(said.output.splitlines()) == 1


@pytest.mark.parametrize(
    "wrong",
    [["--sessions", "1e400"], ["--sessions", "0.5"], ["--rate", "nan"], ["--first", "200k"], ["--gpu", "l4,h100"]],
    ids=["endless", "half", "rate", "first", "gpu"],
)
def test_a_simulation_that_means_nothing_is_refused_in_one_sentence(wrong: list[str]) -> None:
    said = _RUN.invoke(app, ["simulate", "configs/serve.s.yaml", "--length", "2s", "--warm-up", "1s", *wrong])
    assert said.exit_code == 2
    assert said.output.startswith("gatehouse: ")
    assert len(said.output.splitlines()) == 1


def test_a_result_that_cannot_be_written_is_said_in_one_sentence(tmp_path: Path) -> None:
    short = ["simulate", "configs/serve.s.yaml", "--sessions", "1", "--length", "2s", "--warm-up", "1s"]
    (tmp_path / "file").write_text("")
    for file in (tmp_path, tmp_path / "file" / "below.json"):
        said = _RUN.invoke(app, [*short, "--json", str(file)])
        assert said.exit_code == 1
        assert f"gatehouse: {file} cannot be written" in said.output
        assert isinstance(said.exception, SystemExit)


def test_a_range_says_when_a_case_has_no_number() -> None:
    met = _RUN.invoke(app, _ASKED)
    assert "or none" not in met.output.partition("Ranges run")[0]
    said = _RUN.invoke(app, [*_ASKED, "--gpu", "a100"])  # one card reads too slowly in the low case
    assert said.exit_code == 0
    assert "1 x a100, low case: the first token takes" in said.output
    assert re.search(r"1 x a100 .* 7 to 14 or none", said.output)


def test_a_price_of_another_card_is_no_price() -> None:
    assert "No prices are assumed" in _RUN.invoke(app, [*_ASKED, "--gpu-hour", "l4=2"]).output


def test_sources_are_shown() -> None:
    said = _RUN.invoke(app, ["--sources"])
    assert "[lab] GPUStack performance lab" in said.output


def test_every_constant_has_a_source() -> None:
    """Beside each constant, above it or in the sentence below, stands the mark of a source that is listed."""
    text = Path(constants.__file__).read_text()
    lines, body = text.splitlines(), ast.parse(text).body
    checked: list[str] = []
    for number, each in enumerate(body):
        if not isinstance(each, ast.Assign | ast.AnnAssign):
            continue
        target = each.targets[0] if isinstance(each, ast.Assign) else each.target
        name = ast.unparse(target)
        if not name.isupper() or name in ("SOURCES", "ADDRESSES"):
            continue
        after = body[number + 1] if number + 1 < len(body) else None
        sentence = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        end = after.end_lineno if sentence and after is not None else each.end_lineno
        begin = each.lineno - 1
        while lines[begin - 1].startswith("#"):
            begin -= 1
        marks = set(re.findall(r"\[(\w+)\]", "\n".join(lines[begin:end])))
        assert marks & set(constants.SOURCES), f"{name} has no source"
        checked.append(name)
    assert {"GPUS", "EFFICIENCIES", "PATH_TOKEN_S", "LAB", "HOURS_PER_MONTH"} <= set(checked)


def test_every_source_that_can_be_read_has_its_address() -> None:
    assert constants.ADDRESSES.keys() == constants.SOURCES.keys() - {"smi", "choice", "unit", "estimate"}
    said = _RUN.invoke(app, ["--sources"])
    assert said.exit_code == 0
    lines = said.output.splitlines()
    for name, addresses in constants.ADDRESSES.items():
        begin = next(number for number, line in enumerate(lines) if line.startswith(f"[{name}] "))
        shown = lines[begin + 1 : begin + 1 + len(addresses)]
        assert [line.strip() for line in shown] == list(addresses)
        for address in addresses:
            assert address.startswith("https://") or (ROOT / address).is_file(), address


def test_every_card_and_every_throughput_has_a_page() -> None:
    pages = constants.ADDRESSES
    for card in constants.GPUS:
        assert any(page.endswith(f"/{card}/") for page in pages["datasheet"]), card
    for each in constants.LAB:
        assert any(page.endswith(f"/{each.model}/{each.gpu}/") for page in pages["lab"]), each


def test_a_profile_is_simulated(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("size") / "out.json"
    said = _RUN.invoke(
        app, ["simulate", "configs/serve.s.yaml", "--sessions", "2", "--length", "2min", "--warm-up", "10s", "--json",
              str(file)],
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    assert "serve.s.yaml on l4" in said.output
    document = json.loads(file.read_text())
    by_case = document["results"]["2"]
    gaps = [by_case[case][0]["itl_mean_s"] for case in ("low", "mid", "high")]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] > 0


def test_a_profile_on_token_clocks_or_demonstrations_is_refused() -> None:
    said = _RUN.invoke(app, ["simulate", "configs/serve.local.yaml"])
    assert said.exit_code == 2
    assert "nothing is known about demo-20b" in said.output


@contextmanager
def _served(script: Script) -> Generator[str]:
    """The address of a server in a thread of its own, as the command has the loop of this one."""
    loop, started, urls = asyncio.new_event_loop(), threading.Event(), list[str]()
    stop = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(script.answer, "127.0.0.1", 0)
        urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        started.set()
        await stop.wait()
        server.close()
        for task in script.tasks:
            task.cancel()
        await asyncio.gather(*script.tasks, return_exceptions=True)
        for writer in script.writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in script.writers), return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait()
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def test_a_real_server_is_loaded_and_compared(tmp_path_factory: pytest.TempPathFactory) -> None:
    file, script = tmp_path_factory.mktemp("check") / "out.json", Script()
    with _served(script) as url:
        said = _RUN.invoke(
            app,
            ["check", "--seats", "2", "--first-token-ms", "0", "--token-ms", "0.1", "--max-tokens", "2", "--url", url,
             "--streams", "2", "--per-stream", "3", "--rate", "", "--json", str(file)],
        )  # fmt: skip
    assert said.exit_code == 0, said.output
    document = json.loads(file.read_text())
    assert [each["name"] for each in document["compared"]] == list(COMPARED)
    assert all(each["level"] == "2 streams" and each["real"] > 0 for each in document["compared"])
    path = document["server"]["path"]
    assert path["calls_s"] + path["request_s"] > 0
    assert [(each["together"], each["running"]) for each in document["probes"]] == [(1, 0), (2, 0), (1, 1)] * 2
    bursts, beside = 12 * (1 + 2), 4  # twice each, as are the probes beside answers, of which there is at least one
    assert len(script.requests) >= 8 + 2 * (bursts + beside + 1) + 6  # with the warm-up and the level


def test_a_server_that_answers_nothing_is_no_comparison() -> None:
    with _served(Script(status=401)) as url:
        said = _RUN.invoke(
            app, ["check", "--seats", "2", "--first-token-ms", "1", "--token-ms", "1", "--url", url]
        )  # fmt: skip
    assert said.exit_code == 1
    assert "no request was answered: status 401" in said.output


def test_a_server_elsewhere_is_not_loaded_unasked() -> None:
    said = _RUN.invoke(
        app, ["check", "--seats", "2", "--first-token-ms", "1", "--token-ms", "1", "--url", "http://10.0.0.1"]
    )
    assert said.exit_code == 2
    assert "--allow-remote" in said.output


@pytest.mark.parametrize(("text", "value"), [("500", 500), ("32k", 32_768), ("128K", 131_072)])
def test_tokens(text: str, value: int) -> None:
    assert tokens(text) == value


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5k", "32m"])
def test_not_tokens(text: str) -> None:
    with pytest.raises(ValueError, match="not a number of tokens"):
        tokens(text)


def test_numbers() -> None:
    assert numbers("4, 8,2.75") == [4.0, 8.0, 2.75]
    for wrong in ("", "a", "1,-2", "0", "nan", "1,nan", "inf", "1e400"):
        with pytest.raises(ValueError, match="is not a list of"):
            numbers(wrong)
    with pytest.raises(ValueError, match="above 1,000,000"):
        numbers("1e7")


def test_agents_are_whole() -> None:
    assert whole("10, 50") == [10, 50]
    for wrong in ("0.5", "2.7", "10,2.5"):
        with pytest.raises(ValueError, match="whole numbers"):
            whole(wrong)


@pytest.mark.parametrize(("text", "value"), [("2", 2.0), ("2s", 2.0), ("50ms", 0.05), ("1.5min", 90.0), ("1h", 3600.0)])
def test_durations(text: str, value: float) -> None:
    assert duration_s(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["9" * 400 + "s", "600000min"], ids=["endless", "long"])
def test_a_time_is_a_year_at_most(text: str) -> None:
    with pytest.raises(ValueError, match="longer than a year"):
        duration_s(text)


def test_prices_are_for_all_cards_or_for_named_ones() -> None:
    assert card_prices("2.5", ["h100", "l4"]) == {"h100": 2.5, "l4": 2.5}
    assert card_prices("2.5, l4=0.8", ["h100", "l4"]) == {"h100": 2.5, "l4": 0.8}
    for wrong in ("-1", "nan", "l4=", "abacus=2"):
        with pytest.raises(ValueError, match=r"is not a price|no card"):
            card_prices(wrong, ["h100"])
