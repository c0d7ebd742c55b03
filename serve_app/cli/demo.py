"""`gatehouse demo`: the embedded demonstration models."""

from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.client import fail
from serve_app.config import ConfigError, find, load_serve_file
from serve_app.prepare import prepare as prepare_files

app = typer.Typer(help="The embedded demonstration models: train, expand, evaluate.", no_args_is_help=True)


@app.command()
def prepare(
    config: Annotated[str, typer.Option(help="A Serve config file.")] = "configs/serve.local.yaml",
) -> None:
    """Fetch the vocabulary and expand the committed weights; does nothing when both are there."""
    try:
        sources = prepare_files(
            load_serve_file(find(config)).app, lambda stage, done: typer.echo(f"{done:4.0%} {stage}")
        )
    except ConfigError as error:
        fail(str(error))
    for model, source in sources.items():
        typer.echo(f"{model}: {source}")


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="demo-20b or demo-120b.")],
    out: Annotated[Path, typer.Option(help="Folder for the compact weights.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train one model from the recipe; the same seed gives the committed weights."""
    from serve_app.demo.recipe import DEMO_MODELS, DemoName
    from serve_app.demo.train import train as train_model

    known: dict[str, DemoName] = {demo: demo for demo in DEMO_MODELS}
    if name not in known:
        fail(f"there is no demonstration model '{name}'; there are {', '.join(DEMO_MODELS)}.", 2)
    train_model(known[name], out, seed=seed, report=typer.echo)
