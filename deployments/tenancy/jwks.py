"""Public keys of issuers (RFC 7517), remembered: fetched when they are old, or when a token names one that is new."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx2
import jwt

from deployments.clock import Clock
from deployments.errors import PartUnavailable
from deployments.tenancy.oidc_settings import IssuerSettings

_log = logging.getLogger("gatehouse.tenancy")
_MAX_BYTES = 1 << 20
_MAX_KEYS = 256
_TIMEOUT_S = 5.0
_PAUSE_S = 30.0
"""Between two fetches that tokens with unknown keys ask for: anybody can write such a token."""

Fetch = Callable[[IssuerSettings], Awaitable[bytes]]


class UnknownKey(Exception):
    """The issuer has no key of this name."""


@dataclass(slots=True)
class _Known:
    keys: Mapping[str, jwt.PyJWK]
    good_s: float
    tried_s: float


class KeySets:
    """The keys of every issuer. One fetch at a time for each."""

    def __init__(self, clock: Clock, fetch: Fetch | None = None) -> None:
        self._clock = clock
        self._fetch = fetch or fetch_keys
        self._known: dict[str, _Known] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def key(self, issuer: IssuerSettings, kid: str | None) -> jwt.PyJWK:
        """The key `kid`; without a name, the only one there is.

        `UnknownKey`, or `PartUnavailable` when the issuer's keys are too old and no new ones can be had.
        """
        known = self._known.get(issuer.issuer)
        if not self._serves(known, issuer, kid):
            async with self._locks.setdefault(issuer.issuer, asyncio.Lock()):
                known = self._known.get(issuer.issuer)
                if not self._serves(known, issuer, kid):
                    known = await self._renew(known, issuer)
        if known is None or self._clock.monotonic_s() - known.good_s > issuer.stale_s:
            raise PartUnavailable("The keys of the identity's issuer cannot be had.")
        if kid is None and len(known.keys) == 1:
            return next(iter(known.keys.values()))
        if kid is None or kid not in known.keys:
            raise UnknownKey(kid)
        return known.keys[kid]

    def _serves(self, known: _Known | None, issuer: IssuerSettings, kid: str | None) -> bool:
        """True when there is nothing to ask the issuer for now."""
        if known is None:
            return False
        now_s = self._clock.monotonic_s()
        if now_s - known.tried_s < min(_PAUSE_S, issuer.refresh_s):
            return True
        return now_s - known.good_s < issuer.refresh_s and (kid is None or kid in known.keys)

    async def _renew(self, known: _Known | None, issuer: IssuerSettings) -> _Known | None:
        now_s = self._clock.monotonic_s()
        try:
            keys = parse_keys(await self._fetch(issuer), issuer)
        except (httpx2.HTTPError, OSError, ValueError) as error:
            _log.warning("the keys of %s could not be renewed: %s", issuer.issuer, type(error).__name__)
            if known is not None:
                known.tried_s = now_s
            return known
        self._known[issuer.issuer] = renewed = _Known(keys, now_s, now_s)
        return renewed


def parse_keys(data: bytes, issuer: IssuerSettings) -> dict[str, jwt.PyJWK]:
    """The keys of a set that may verify by one of the issuer's algorithms; others are left out.

    `ValueError` when it is no key set, or holds no such key: then the last good one stays.
    """
    document = cast(object, json.loads(data))
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):  # pyright: ignore[reportUnknownMemberType]
        raise ValueError("not a key set")
    found = dict[str, jwt.PyJWK]()
    for number, each in enumerate(cast(list[dict[str, Any]], document["keys"])[:_MAX_KEYS]):
        if not isinstance(each, dict) or each.get("use", "sig") != "sig":  # pyright: ignore[reportUnnecessaryIsInstance]
            continue
        try:
            key = jwt.PyJWK(each)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue  # a kind of key that is not known here, beside others that are
        if key.algorithm_name in issuer.algorithms:
            found[key.key_id if isinstance(key.key_id, str) else f"#{number}"] = key
    if not found:
        raise ValueError("no key that may be used")
    return found


async def fetch_keys(issuer: IssuerSettings) -> bytes:
    """The key set as it is published; no redirects, and no more than a megabyte of it."""
    if issuer.jwks_file is not None:
        return await asyncio.to_thread(_read, Path(issuer.jwks_file))
    async with (
        httpx2.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as client,
        client.stream("GET", cast(str, issuer.jwks_url), headers={"accept": "application/json"}) as reply,
    ):
        if reply.status_code != 200:
            raise ValueError(f"status {reply.status_code}")
        data = bytearray()
        async for part in reply.aiter_bytes():
            data += part
            if len(data) > _MAX_BYTES:
                raise ValueError("too large")
        return bytes(data)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError("too large")
    return data
