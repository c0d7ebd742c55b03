"""The digest by which a tool's JSON schema is registered: what is offered must be what was looked at."""

import hashlib
from collections.abc import Mapping

import rfc8785

from deployments.ports import JsonValue


def schema_digest(schema: Mapping[str, JsonValue]) -> str:
    """SHA-256 hex of the RFC 8785 form of `schema`, the object under `parameters` or `input_schema` as offered.

    Raises `rfc8785.CanonicalizationError` for a value that has no canonical form, such as an integer beyond 2^53-1.
    """
    return hashlib.sha256(rfc8785.dumps(dict(schema))).hexdigest()
