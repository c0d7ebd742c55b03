"""`gatehouse router labels`: make labels for the router's own pair of models."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import httpx2
import typer

from deployments.clock import Clock, SystemClock
from router.types import Effort
from serve_app.cli.client import fail
from serve_app.config import environment

if TYPE_CHECKING:
    from serve_app.routing.labels import Plan, Progress

_EVERY = 25
_NO_EFFORT = "none"


def register(app: typer.Typer) -> None:
    """Add the command to `gatehouse router`."""
    app.command("labels")(labels)


def labels(
    prompts: Annotated[Path, typer.Argument(help='JSONL: {"id", "prompt", "check": {"kind", ...}, "task"?, ...}.')],
    out: Annotated[Path, typer.Option(help="JSONL of labels; a run that was broken off goes on from it.")],
    base_url: Annotated[str, typer.Option(help="OpenAI-compatible, with its /v1.")] = "http://127.0.0.1:8000/v1",
    key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "GATEHOUSE_KEY",
    weak: Annotated[str, typer.Option(help="Served name of the weak model.")] = "gpt-oss-20b",
    strong: Annotated[str, typer.Option(help="Served name of the strong model.")] = "gpt-oss-120b",
    effort: Annotated[
        list[str], typer.Option(help="low, medium, high, or none to send no effort; may be repeated.")
    ] = ["low", "medium", "high"],  # noqa: B006 - typer reads the default and never changes it
    repeats: Annotated[int, typer.Option(min=1, max=64, help="Calls per prompt, model and effort.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, max=512, help="Calls under way at a time.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Limit of an answer where the prompt sets none.")] = 8192,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="Left to the server when absent.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one call.")] = 600.0,
    keep_answers: Annotated[bool, typer.Option("--keep-answers", help="Store the answers' text, too.")] = False,
    rows: Annotated[Path | None, typer.Option(help="Also write rows for `router train` and `router eval`.")] = None,
    weak_effort: Annotated[str, typer.Option(help="Effort of the weak model in these rows.")] = "medium",
    strong_effort: Annotated[str, typer.Option(help="Effort of the strong model in these rows.")] = "medium",
) -> None:
    """Ask every prompt of every model at every effort, check the answers, and write one line per call.

    Checks: choice (a letter), exact, numeric, regex, json. Needs a server, not a GPU. Leaves with 1 when calls failed
    and with 2 when a file cannot be used; started again it does what is missing and nothing else.
    """
    from serve_app.routing.data import DataRefused
    from serve_app.routing.labels import Plan

    plan = Plan(
        base_url=base_url,
        models={"weak": weak, "strong": strong},
        efforts=tuple(dict.fromkeys(_effort(each) for each in effort)),
        repeats=repeats,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        concurrency=concurrency,
        timeout_s=timeout,
        keep_answers=keep_answers,
    )
    try:
        progress = make_labels(prompts, plan, out, environment().get(key_env), SystemClock())
        if rows is not None:
            _write_rows(prompts, out, rows, _effort(weak_effort), _effort(strong_effort))
    except DataRefused as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"cannot write {error.filename or out}: {error.strerror}.", 2)
    typer.echo(summary_of(progress))
    if progress.failures:
        if progress.stopped:
            typer.echo(f"gatehouse: stopped after {plan.most_failures} failed jobs in a row.", err=True)
        raise typer.Exit(1)


def make_labels(
    prompts: Path,
    plan: "Plan",
    out: Path,
    key: str | None,
    clock: Clock,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> "Progress":
    """Run the plan to its end; progress goes to standard error."""
    from serve_app.routing.labels import connect, read_prompts, run

    asked = read_prompts(prompts)

    def shown(progress: "Progress") -> None:
        if (progress.done + progress.failures) % _EVERY == 0:
            typer.echo(summary_of(progress), err=True)

    async def go() -> "Progress":
        async with connect(plan, key, transport) as http:
            return await run(asked, plan, out, http, clock, shown=shown)

    return asyncio.run(go())


def summary_of(progress: "Progress") -> str:
    """One line: how far, how many right, what failed."""
    there = progress.there + progress.done
    text = f"{there} of {progress.jobs} labels ({progress.there} from before), {progress.right} right in this run"
    failed: Mapping[str, int] = progress.failed
    if failed:
        text += ", failed: " + ", ".join(f"{count} x {kind}" for kind, count in sorted(failed.items()))
    return text


def _write_rows(prompts: Path, out: Path, file: Path, weak: Effort | None, strong: Effort | None) -> None:
    from serve_app.routing.labels import read_labels, read_prompts, rows

    made = rows(read_prompts(prompts), read_labels(out), weak, strong)
    file.write_text("".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in made), "utf-8")
    typer.echo(f"{len(made)} rows in {file}")


def _effort(name: str) -> Effort | None:
    if name == _NO_EFFORT:
        return None
    try:
        return Effort(name)
    except ValueError:
        fail(f"'{name}' is not an effort: low, medium, high or none.", 2)
