"""`gatehouse client-config`: a working configuration for a client, on standard output or in files."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import httpx2
import typer

from serve_app.cli.client import fail
from serve_app.clients.registry import CLIENTS, Client, Format
from serve_app.clients.values import (
    AUTO,
    MODEL_NAME,
    ClientModel,
    ConfigFile,
    Setup,
    UnusableModels,
    assumed_models,
    make_setup,
    models_of,
)
from serve_app.config import client_environment, environment

_ASK_S: Final = 3.0
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_URL_SAFE: Final = re.compile(r"[A-Za-z0-9.:/_~\[\]%-]+")
_HEADER_SAFE: Final = re.compile(r"[\x21-\x7e]+")


class _NotAsked(Exception):
    """The server could not tell its models; the text completes "because ..."."""


def client_config(
    client: Annotated[Client, typer.Argument(help="Which client to configure.")],
    url: Annotated[str | None, typer.Option(help="Where Gatehouse answers; default: GATEHOUSE_URL.")] = None,
    model: Annotated[str, typer.Option(help="The model to use; 'auto' leaves it to the router.")] = AUTO,
    small_model: Annotated[
        str | None, typer.Option(help="The model for titles and background work; default: the 20b tier's.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=1024, help="Context window in tokens, where the server cannot be asked.")
    ] = None,
    key_env: Annotated[
        str, typer.Option(help="Environment variable from which the client reads its key.")
    ] = "GATEHOUSE_API_KEY",
    format_: Annotated[
        Format | None, typer.Option("--format", help="What to write, where a client takes several.")
    ] = None,
    write: Annotated[Path | None, typer.Option(help="Write all files of the client into this folder.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the file here instead of printing it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that differ.")] = False,
) -> None:
    """Print a working configuration for a client: `gatehouse client-config codex > config.toml`.

    Names and windows of the models come from the server, asked with the key in the --key-env variable; files refer to
    the key by that variable and never hold it. Hints go to standard error.
    """
    renderers = CLIENTS[client]
    chosen = format_ or next(iter(renderers))
    if chosen not in renderers:
        fail(f"{client.value} has no format '{chosen.value}'; it has: {', '.join(renderers)}.", 2)
    if write is not None and output is not None:
        fail("--write and --output exclude each other.", 2)
    setup = _setup(url, model, small_model, context, key_env)
    rendered = renderers[chosen](setup)
    if write is not None:
        _write([(write / file.name, file) for file in rendered.files], force)
    elif output is not None:
        _write([(output, rendered.files[0])], force)
    else:
        typer.echo(rendered.files[0].content, nl=False)
    for hint in rendered.hints if write is not None else (*rendered.hints, *rendered.alone):
        _say(hint)


def _setup(url: str | None, model: str, small: str | None, context: int | None, key_env: str) -> Setup:
    """Checked options and what the server says. A wrong one ends the process with one sentence."""
    if _VARIABLE.fullmatch(key_env) is None:
        fail("--key-env takes the name of an environment variable, not a key.", 2)
    for name in (model, small):
        if name is not None and MODEL_NAME.fullmatch(name) is None:
            fail("a model's name has letters, digits and . _ : / - only.", 2)
    known = client_environment()
    address = _address(known.url if url is None else url)
    key = environment().get(key_env, "").strip()
    if not key and address == known.url:
        key = known.key or ""  # the operator's own key goes to the operator's own server only
    try:
        models, complete = _ask(address, key, key_env), True
    except _NotAsked as reason:
        models, complete = assumed_models(context), False
        _say(f"Models and windows of {models[0].context_window} tokens are assumed, because {reason}.")
    try:
        return make_setup(address, key_env, models, model, small, complete=complete)
    except UnusableModels as error:
        fail(str(error))


def _address(url: str) -> str:
    """The URL without `/v1` and slashes at its end."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
        parts = urlsplit("")
    if not usable or parts.query or parts.fragment or "@" in parts.netloc or _URL_SAFE.fullmatch(url) is None:
        fail("the URL must look like https://HOST[:PORT], without user, query or fragment.", 2)
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        _say("The key will travel unencrypted: the URL is http and not this machine.")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def make_http(key: str) -> httpx2.Client:
    """The client that asks for the models; follows no redirect, so the key stays with the URL it was meant for."""
    return httpx2.Client(headers={"authorization": f"Bearer {key}"}, timeout=_ASK_S)


def _ask(url: str, key: str, key_env: str) -> tuple[ClientModel, ...]:
    """The models that the key may use, never none; raises `_NotAsked`."""
    if not key:
        raise _NotAsked(f"{key_env} holds no key to ask the server with")
    if _HEADER_SAFE.fullmatch(key) is None:
        raise _NotAsked("the key at hand has characters that no key has")
    try:
        with make_http(key) as http:
            reply = http.get(f"{url}/v1/models")
            listing: object = reply.json() if reply.status_code == 200 else None
    except httpx2.HTTPError as error:
        raise _NotAsked(f"no Gatehouse answers at {url} ({type(error).__name__})") from None
    except ValueError:
        raise _NotAsked(f"the answer of {url} is not JSON") from None
    if reply.status_code != 200:
        raise _NotAsked(f"the server refused to list its models with status {reply.status_code}")
    models = models_of(listing)
    if not models:
        raise _NotAsked("the server lists no model for this key")
    return models


def _write(files: Sequence[tuple[Path, ConfigFile]], force: bool) -> None:
    """Write all or, when one of them would be lost, none."""
    try:
        if not force:
            for path, file in files:
                if path.exists() and path.read_bytes() != file.content.encode():
                    fail(f"{path} exists and differs; --force replaces it.")
        for path, file in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.content, encoding="utf-8", newline="\n")
            _say(f"wrote {path}")
    except OSError as error:
        fail(f"{error.filename or files[0][0]} cannot be written: {error.strerror}.")


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)
