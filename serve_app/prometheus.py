"""Questions to a Prometheus over HTTP, for the drills, `gatehouse status` and the canary of a cluster."""

from collections.abc import Mapping
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

import httpx2
from pydantic import BaseModel, ValidationError

_TIMEOUT_S: Final = 15.0
_OK: Final = 200


class PrometheusSilent(Exception):
    """No answer, or none that can be used; the text is a sentence without its stop, and holds no password."""


class _Reply(BaseModel):
    status: str
    data: dict[str, Any]


class PrometheusApi:
    """Questions to the server at `url`, or to what stands before it: `token` is sent as a bearer's."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        transport: httpx2.BaseTransport | None = None,
        trust_env: bool = True,
    ) -> None:
        """`trust_env`: whether proxies and authorities of the environment are used."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._base = url.rstrip("/")
        self._http = httpx2.Client(timeout=_TIMEOUT_S, headers=headers, trust_env=trust_env, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def url(self) -> str:
        """Where it is, as it may be shown."""
        try:
            parts = urlsplit(self._base)
        except ValueError:
            return "an address that cannot be read"
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    def ask(self, what: str, **parameters: str) -> Mapping[str, Any]:
        """The `data` of the reply to `what` (`alerts`, `rules`); `PrometheusSilent` where there is none."""
        return self._data("GET", what, params=parameters)

    def query(self, promql: str) -> Mapping[str, Any]:
        """The `data` of an instant query: `resultType` and `result`. Posted, since a query may be longer than a URL."""
        return self._data("POST", "query", data={"query": promql})

    def _data(self, method: str, what: str, **content: Any) -> Mapping[str, Any]:
        try:
            reply = self._http.request(method, f"{self._base}/api/v1/{what}", **content)
            parsed = _Reply.model_validate_json(reply.content) if reply.status_code == _OK else None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._silent(type(error).__name__) from None
        except ValidationError:
            raise self._silent("not in its own language") from None
        if parsed is None:
            raise self._silent(f"status {reply.status_code}")
        if parsed.status != "success":
            raise self._silent(f"it says {parsed.status[:40]!r}")
        return parsed.data

    def _silent(self, why: str) -> PrometheusSilent:
        return PrometheusSilent(f"Prometheus does not answer at {self.url} ({why})")
