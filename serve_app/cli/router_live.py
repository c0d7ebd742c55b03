"""`gatehouse router live`: what routing is worth on the server that runs."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import httpx2
import typer

from deployments.clock import SystemClock
from router.types import Tier
from serve_app.cli.client import fail
from serve_app.config import environment

if TYPE_CHECKING:
    from serve_app.routing.labels import Prompt
    from serve_app.routing.live import Line


def register(app: typer.Typer) -> None:
    """Add the command to `gatehouse router`."""
    app.command("live")(live)


def live(
    prompts: Annotated[
        Path | None, typer.Argument(help="JSONL as for `router labels`; without it those of the demonstration models.")
    ] = None,
    base_url: Annotated[str, typer.Option(help="OpenAI-compatible, with its /v1.")] = "http://127.0.0.1:8000/v1",
    key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "GATEHOUSE_KEY",
    weak: Annotated[str, typer.Option(help="Served name of the weak model.")] = "demo-20b",
    strong: Annotated[str, typer.Option(help="Served name of the strong model.")] = "demo-120b",
    count: Annotated[int, typer.Option(min=3, max=10_000, help="Demonstration prompts.")] = 120,
    concurrency: Annotated[int, typer.Option(min=1, max=512)] = 4,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one call.")] = 600.0,
    out: Annotated[Path | None, typer.Option(help="Folder for live.json and live.md.")] = None,
) -> None:
    """Ask the same prompts four ways: always weak, always strong, routed, and routed with a verified cascade.

    Prints how many answers are right and which share of the prompts the strong model worked on.
    """
    from serve_app.routing.data import DataRefused
    from serve_app.routing.labels import read_prompts
    from serve_app.routing.live import LiveFailed, demonstration_prompts, markdown

    try:
        asked = demonstration_prompts(count) if prompts is None else read_prompts(prompts)
        key = environment().get(key_env)
        lines = asyncio.run(_measured(asked, base_url, key, weak, strong, concurrency, timeout))
    except DataRefused as error:
        fail(str(error), 2)
    except LiveFailed as error:
        fail(str(error), 1)
    typer.echo(markdown(lines), nl=False)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "live.md").write_text(markdown(lines), encoding="utf-8")
        rows = [asdict(line) for line in lines]
        (out / "live.json").write_text(json.dumps(rows, indent=2, sort_keys=True) + "\n", encoding="utf-8")


async def _measured(
    prompts: "Sequence[Prompt]",
    base_url: str,
    key: str | None,
    weak: str,
    strong: str,
    concurrency: int,
    timeout_s: float,
) -> "list[Line]":
    from serve_app.routing.live import measure, report

    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    url = base_url.rstrip("/") + "/"
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=timeout_s, trust_env=False) as http:
        models = {Tier.BASE: weak, Tier.STRONG: strong}
        return report(await measure(http, prompts, models, SystemClock().monotonic_s, concurrency))
