"""`gatehouse rollout eval`: ask a running system the cases of an evaluation suite, and compare with another time."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import httpx2
import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from deployments.errors import GatehouseError, InvalidRequest
from deployments.rollout.asking import body_of, reply_of
from deployments.rollout.cases import Case
from deployments.rollout.checks import passes
from deployments.rollout.paired import Comparison, compare, wilson, worse
from deployments.rollout.suite import Suite, read_suite
from deployments.rollouts import MOST_CASES
from serve_app.cli.client import fail, http_of
from serve_app.cli.tables import show_rows
from serve_app.config import client_environment

SUITE: Final = "configs/evals/coding-ops.jsonl"
_BY_HAND: Final = "by hand"  # the key of what is drawn, so that two runs of one size ask the same
_BUSY: Final = frozenset({429, 503})
_TRIES: Final = 5
_LONGEST_WAIT_S: Final = 30.0


class Outcome(BaseModel):
    """What `--save` writes: of each answered case whether it was passed, no word of it. `suite`: its file's SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["gatehouse eval v1"] = "gatehouse eval v1"
    model: str
    suite: str
    passed: dict[str, bool]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval")(evaluate)


def count_of(text: str) -> int | Literal["all"]:
    """A number of cases, or all; ends the process with one sentence for anything else."""
    if text == "all":
        return "all"
    if not text.isascii() or not text.isdecimal() or len(text) > 5 or not 1 <= int(text) <= MOST_CASES:
        fail(f"the number of cases is 1 to {MOST_CASES}, or all.", 2)
    return int(text)


def evaluate(
    model: Annotated[str, typer.Option(help="The model that is asked.")],
    cases: Annotated[str, typer.Option(help="How many cases, drawn from every family, or all.")] = "all",
    suite: Annotated[str, typer.Option(help="The file with the cases.")] = SUITE,
    baseline: Annotated[Path | None, typer.Option(help="What --save wrote another time; exit 1 when worse.")] = None,
    save: Annotated[Path | None, typer.Option(help="Where to write which cases were passed.")] = None,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="How many are asked at one time.")] = 2,
    timeout_s: Annotated[float, typer.Option(min=1, max=3_600, help="The longest answer.")] = 240.0,
    false_alarm: Annotated[
        float,
        typer.Option(min=1e-6, max=0.5, help="How probable it is that a model as good as before is called worse."),
    ] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Ask a model of the running system the evaluation cases, as a client does. Exit 1: worse than the baseline.

    Two answers of one model may differ, so only the shown difference counts: the exact test of a rollout.
    """
    try:
        read = read_suite(suite)
    except InvalidRequest as error:
        fail(error.public_message)
    before = None if baseline is None else _read(baseline, read)
    wanted = count_of(cases)
    chosen = read.cases if wanted == "all" else read.draw(_BY_HAND, wanted)
    if before is not None and not before.passed.keys() & {each.name for each in chosen}:
        fail("the baseline has none of these cases.")
    passed, unanswered = _ask_all(model, chosen, parallel, timeout_s)
    outcome = Outcome(model=model, suite=read.digest, passed=passed)
    if save is not None:
        # Of what was not answered nobody knows: as failed it would make every later answer look as good.
        known = {name: good for name, good in passed.items() if name not in unanswered}
        try:
            text = Outcome(model=model, suite=read.digest, passed=known).model_dump_json(indent=2)
            save.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            fail(f"{save} cannot be written: {error.strerror}.")
    families = {each.name: each.family for each in read.cases}
    found = None if before is None else compare(passed, before.passed, families)
    verdict = None if found is None else worse(found, false_alarm)
    if as_json:
        typer.echo(json.dumps(_document(outcome, families, unanswered, found, verdict)))
    else:
        _show(outcome, families, unanswered, found, verdict)
    if verdict is not None:
        raise typer.Exit(1)


def _read(file: Path, suite: Suite) -> Outcome:
    """The outcome of another time, of the same cases; ends the process otherwise."""
    try:
        found = Outcome.model_validate_json(file.read_bytes())
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}.")
    except ValidationError:
        fail(f"{file} is not what `gatehouse rollout eval --save` writes.")
    if found.suite != suite.digest:
        fail(f"{file} was made with another suite (SHA-256 {found.suite[:12]}); make a new baseline.")
    return found


def _ask_all(
    model: str, cases: Sequence[Case], parallel: int, timeout_s: float
) -> tuple[dict[str, bool], dict[str, str]]:
    """Which cases were passed, and why some have no answer."""
    environment = client_environment(None)
    unanswered = dict[str, str]()
    with http_of(environment, timeout_s) as http:
        _check(http, model, environment.url)

        def one(case: Case) -> bool:
            try:
                return passes(case, reply_of(_ask(http, model, case)))
            except _Unanswered as error:
                unanswered[case.name] = str(error)
            except GatehouseError as error:
                unanswered[case.name] = error.code
            return False

        with ThreadPoolExecutor(parallel) as pool:
            found = dict(zip((each.name for each in cases), pool.map(one, cases), strict=True))
    return found, unanswered


class _Unanswered(Exception):
    """There is no answer to look at."""


def _check(http: httpx2.Client, model: str, url: str) -> None:
    """Whether anybody is there who has the model, before many cases fail for want of it."""
    try:
        reply = http.get("/v1/models")
    except httpx2.TransportError as error:
        fail(f"no Gatehouse answers at {url} ({type(error).__name__}). Start one with `make run`.")
    if reply.status_code != 200:
        fail(f"the server answered {reply.status_code} to /v1/models; the key must be good for inference.")
    names = [each["id"] for each in reply.json()["data"]]
    if model not in names:
        fail(f"there is no model '{model}'; there are {', '.join(names)}.")


def _ask(http: httpx2.Client, model: str, case: Case, sleep: Callable[[float], None] = time.sleep) -> bytes:
    body = body_of(model, case.conversation, case.max_tokens, case.tools)
    for left in reversed(range(_TRIES)):
        try:
            reply = http.post("/v1/chat/completions", json=body)
        except httpx2.TransportError as error:
            raise _Unanswered(type(error).__name__) from None
        if reply.status_code == 200:
            return reply.content
        if reply.status_code not in _BUSY or left == 0:
            raise _Unanswered(f"status {reply.status_code}")
        sleep(_pause_s(reply))
    raise AssertionError


def _pause_s(reply: httpx2.Response) -> float:
    """How long a busy server asks to wait, within bounds."""
    said = reply.headers.get("retry-after", "")
    return min(float(said), _LONGEST_WAIT_S) if said.isdecimal() else 1.0


def _counts(outcome: Outcome, families: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Passed and asked, of each family and of all."""
    found = dict[str, tuple[int, int]]()
    for name, passed in outcome.passed.items():
        for family in (families[name], "all"):
            good, asked = found.get(family, (0, 0))
            found[family] = good + passed, asked + 1
    return dict(sorted(found.items(), key=lambda each: (each[0] == "all", each[0])))


def _document(
    outcome: Outcome,
    families: Mapping[str, str],
    unanswered: Mapping[str, str],
    found: Comparison | None,
    verdict: str | None,
) -> dict[str, Any]:
    compared = None if found is None else {
        "cases": found.all.asked, "passed": found.all.candidate, "passed_before": found.all.baseline,
        "only_before": found.only_baseline, "only_now": found.only_candidate, "p_value": found.p_value,
        "worse": verdict is not None,
    }  # fmt: skip
    return {
        "model": outcome.model,
        "suite": outcome.suite,
        "families": {
            name: {"passed": good, "asked": asked, "interval": [*wilson(good, asked)]}
            for name, (good, asked) in _counts(outcome, families).items()
        },
        "failed": [name for name, passed in outcome.passed.items() if not passed],
        "unanswered": {**unanswered},
        "baseline": compared,
    }


def _show(
    outcome: Outcome,
    families: Mapping[str, str],
    unanswered: Mapping[str, str],
    found: Comparison | None,
    verdict: str | None,
) -> None:
    rows = list[tuple[str, ...]]()
    for name, (good, asked) in _counts(outcome, families).items():
        low, high = wilson(good, asked)
        rows.append((name, f"{good}/{asked}", f"{good / asked:.0%}", f"{low:.0%} to {high:.0%}"))
    show_rows(("family", "passed", "rate", "95 % interval"), rows)
    failed = [name for name, passed in outcome.passed.items() if not passed and name not in unanswered]
    if failed:
        typer.echo(f"Failed: {', '.join(failed)}.")
    if unanswered:
        typer.echo(f"Not answered: {', '.join(f'{name} ({why})' for name, why in unanswered.items())}.")
    if found is not None:
        typer.echo(
            f"Against the baseline, of the cases of both: {found.all}; {found.only_baseline} passed only then, "
            f"{found.only_candidate} only now; p {found.p_value:.2g}."
        )
        typer.echo("It is worse." if verdict is not None else "It is not shown to be worse.")
