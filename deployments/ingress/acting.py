"""Front ends that many people share: whom a request is asked for, signed by the front end.

Open WebUI sends `X-OpenWebUI-User-Jwt`, HS256 over a shared secret (RFC 7519, RFC 8725), when its
`FORWARD_USER_INFO_HEADER_JWT_SECRET` is set. Its plain headers with the same names can be written by anybody and are
never read. What is gained is the name alone: who asked is in the records, and cannot approve what was held for it. The
rights, the limits and the bill are those of the key.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import jwt

from deployments.errors import Unauthenticated
from deployments.ingress.settings import ActAsSettings
from deployments.ports import Principal, Scope

_LEAST_BYTES: Final = 32  # RFC 7518, section 3.2
_MOST_CHARS: Final = 4096
_PERSON: Final = re.compile(r"[\x21-\x7e]{1,128}")
_REFUSED: Final = "The signed name of the user does not hold: it is expired, of another front end, or names nobody."


class Acting:
    """Reads whom a key with the scope `act-as` speaks for."""

    def __init__(self, settings: ActAsSettings | None = None) -> None:
        """Read the secret, or raise `ValueError`: a name that nobody can verify is worse than none. None: no names."""
        self._settings = settings
        self._secret = b"" if settings is None else _secret(Path(settings.secret_file))

    def whose(self, principal: Principal, headers: Mapping[str, str]) -> Principal:
        """The principal with the person whom it speaks for.

        It stays as it is without the scope, without the settings, and without a name, unless one is `required`.
        Raises `Unauthenticated` for a name that does not hold.
        """
        if self._settings is None or Scope.ACT_AS not in principal.scopes:
            return principal
        token = headers.get(self._settings.header)
        if not token:
            if self._settings.required:
                raise Unauthenticated(f"This key asks for others; '{self._settings.header}' must say for whom.")
            return principal
        return replace(principal, person=self._person(token, self._settings))

    def _person(self, token: str, settings: ActAsSettings) -> str:
        if len(token) > _MOST_CHARS:
            raise Unauthenticated(_REFUSED)
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                issuer=settings.issuer,
                leeway=settings.leeway_s,
                options={"require": ["iss", "iat", "exp"], "verify_aud": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise Unauthenticated(_REFUSED) from error
        person = claims.get(settings.person_claim)
        if not isinstance(person, str) or not _PERSON.fullmatch(person):
            raise Unauthenticated(_REFUSED)
        return person


def _secret(path: Path) -> bytes:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"ingress.act_as.secret_file: {path} cannot be read ({type(error).__name__}).") from None
    if len(secret) < _LEAST_BYTES:
        raise ValueError(f"ingress.act_as.secret_file: {path} holds less than {_LEAST_BYTES} bytes.")
    return secret
