"""From request headers to a `Principal` with a scope."""

from collections.abc import Mapping

from starlette.requests import Request

from deployments.errors import Forbidden, Unauthenticated
from deployments.ports import Ledger, Principal, Scope


def presented_key(headers: Mapping[str, str]) -> str:
    """The virtual key of a request: `Authorization: Bearer`, else `x-api-key` or `api-key`.

    Raises `Unauthenticated` when there is none, or when two different ones are presented. A key in the query string is
    never read: it would end up in access logs.
    """
    found: list[str] = []
    authorization = headers.get("authorization", "")
    if authorization:
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "bearer" and credentials.strip():
            found.append(credentials.strip())
    found += [value.strip() for name in ("x-api-key", "api-key") if (value := headers.get(name, "")).strip()]
    if not found:
        raise Unauthenticated(
            "You did not provide an API key. Send it as a Bearer token: 'Authorization: Bearer gh-...'."
        )
    if len(set(found)) > 1:
        raise Unauthenticated("Two different API keys were presented in one request.")
    return found[0]


class Authorizer:
    """Checks the key of a request and its scopes; given to every router."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def __call__(self, request: Request, scope: Scope, *others: Scope) -> Principal:
        """The principal, which has one of the scopes; or `Unauthenticated` / `Forbidden`."""
        principal = await self._ledger.authenticate(presented_key(request.headers))
        if not principal.scopes & {scope, *others}:
            if not others:
                raise Forbidden(f"This key does not have the scope '{scope.value}'.")
            raise Forbidden(f"This key has none of the scopes {', '.join(each.value for each in (scope, *others))}.")
        return principal
