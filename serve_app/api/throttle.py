"""Slows down those who try keys: after too many wrong ones an address gets 429 before anybody looks its next key up.

A key of 190 bits is not found by trying; this keeps the trying from costing the ledger its time. A key that was good
here not long ago is always looked up, so an address that many share (an office, a load balancer) goes on working for
whoever works already.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping

from starlette.requests import Request

from deployments.clock import Clock
from deployments.errors import QuotaExceeded, Unauthenticated
from deployments.tenancy.rates import Rate
from serve_app.api.auth import presented_key
from serve_app.api.errors import caller_of, error_response
from serve_app.api.middleware import App, Message, Receive, Scope, Send

_MOST = 10_000
_LONGEST_WAIT_S = 60


class Throttle:
    """ASGI layer around the app. `per_minute` wrong keys are free; each replica counts for itself.

    `forwarded_hops`: how many proxies before this one write `x-forwarded-for`; 0: the header is not believed, and the
    address is that of the connection.
    """

    def __init__(
        self,
        app: App,
        clock: Clock,
        refused: Callable[[str, int, BaseException], None],
        per_minute: int,
        forwarded_hops: int = 0,
    ) -> None:
        self._app = app
        self._clock = clock
        self._refused = refused
        self._per_minute = per_minute
        self._hops = forwarded_hops
        self._failures: OrderedDict[str, Rate] = OrderedDict()
        self._good: OrderedDict[bytes, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        attempt = self._attempt(scope)
        if attempt is None:
            await self._app(scope, receive, send)
            return
        source, digest = attempt
        wait_s = 0 if digest in self._good else self._wait_s(source)
        if wait_s:
            error = QuotaExceeded(
                f"Too many requests with a wrong API key from {source}. Please try again in {wait_s}s.", wait_s
            )
            reply = error_response(error, caller_of(Request(scope)))
            self._refused(str(scope["path"]), reply.status_code, error)
            await reply(scope, receive, send)
            return

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(scope, source, digest, int(message["status"]))
            await send(message)

        await self._app(scope, receive, watch)

    def _attempt(self, scope: Scope) -> tuple[str, bytes] | None:
        """Address and key of a request; None when there is nothing to count."""
        if scope["type"] != "http":
            return None
        request = Request(scope)
        source = self._source(request)
        try:
            key = presented_key(request.headers)
        except Unauthenticated:  # without a key, nobody asks the ledger
            return None
        return None if source is None else (source, hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())

    def _source(self, request: Request) -> str | None:
        if self._hops:
            # The last entries were written by our own proxies; what stands before them anybody may write.
            entries = [each.strip() for each in ",".join(request.headers.getlist("x-forwarded-for")).split(",")]
            if len(entries) >= self._hops and entries[-self._hops]:
                return entries[-self._hops][:64]
        return None if request.client is None else request.client.host

    def _note(self, scope: Mapping[str, object], source: str, digest: bytes, status: int) -> None:
        if status == 401:
            self._good.pop(digest, None)
            rate = self._failures.pop(source, None) or Rate(self._per_minute)
            rate.take(1, self._now_ns())
            self._failures[source] = rate
            if len(self._failures) > _MOST:
                self._failures.popitem(last=False)
        elif 200 <= status < 300 and (scope["method"] == "POST" or scope["path"] == "/v1/models"):
            # Only where a key is looked at: a public page answers 200 to any.
            self._good[digest] = None
            self._good.move_to_end(digest)
            if len(self._good) > _MOST:
                self._good.popitem(last=False)

    def _wait_s(self, source: str) -> int:
        rate = self._failures.get(source)
        if rate is None:
            return 0
        return min(_LONGEST_WAIT_S, -(-rate.wait_ns(1, self._now_ns()) // 10**9))

    def _now_ns(self) -> int:
        return int(self._clock.monotonic_s() * 10**9)
