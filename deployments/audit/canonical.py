"""Canonical bytes of a JSON value: RFC 8785 (JCS)."""

from typing import cast

import rfc8785

from deployments.ports import JsonValue


def canonical(value: JsonValue) -> bytes:
    """The RFC 8785 form of `value`: UTF-8, sorted keys, one spelling per number and string.

    Two parties that agree on a value agree on its bytes, hence on its hash. Raises `rfc8785.CanonicalizationError`
    for what has no such form: integers beyond 2**53 - 1, NaN, infinities, lone surrogates.
    """
    return rfc8785.dumps(cast("str", value))
