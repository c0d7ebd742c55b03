"""How commands end that need no server: without a configuration and an HTTP client, unlike those of `client.py`."""

from typing import NoReturn

import typer


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one sentence to stderr and leave with `code`."""
    typer.echo(f"gatehouse: {message}", err=True)
    raise typer.Exit(code)
