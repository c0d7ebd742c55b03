"""How the command line talks to a running Gatehouse: HTTP with the operator's key."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import typer

from serve_app.config import ClientEnvironment, client_environment


def fail(message: str, code: int = 1) -> NoReturn:
    """Print one sentence to stderr and leave with `code`."""
    typer.echo(f"gatehouse: {message}", err=True)
    raise typer.Exit(code)


def http_of(environment: ClientEnvironment, timeout_s: float) -> httpx2.Client:
    """A client with the URL and the key; without either the process ends with one sentence."""
    if environment.key is None:
        fail(f"no key: set GATEHOUSE_KEY, or start the server once so that {environment.key_file} exists.")
    headers = {"authorization": f"Bearer {environment.key}"}
    try:
        return httpx2.Client(base_url=environment.url, headers=headers, timeout=timeout_s)
    except httpx2.InvalidURL:
        fail(f"GATEHOUSE_URL is {environment.url}, which is no address.")
    except UnicodeEncodeError:
        fail("GATEHOUSE_KEY is no key of Gatehouse.")


class ApiClient:
    """A small client of our own admin API.

    The key comes from `GATEHOUSE_KEY`, else from `<state_dir>/operator.key`, which the first start writes with mode
    0600 for the person who runs the server. The URL comes from `GATEHOUSE_URL`, else http://127.0.0.1:8000.
    """

    def __init__(self, state_dir: Path | None = None, timeout_s: float = 30.0) -> None:
        environment = client_environment(state_dir)
        self.url = environment.url
        self._http = http_of(environment, timeout_s)

    def request(self, method: str, path: str, body: Mapping[str, object] | None = None, **params: str) -> Any:
        """The decoded JSON reply; any error ends the process with one sentence."""
        try:
            reply = self._http.request(method, path, json=body, params=params or None)
        except httpx2.TransportError as error:
            fail(f"no Gatehouse answers at {self.url} ({type(error).__name__}). Start one with `make run`.")
        if reply.status_code >= 400:
            fail(_message(reply))
        return reply.json()


def _message(reply: httpx2.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return f"the server answered {reply.status_code}."
