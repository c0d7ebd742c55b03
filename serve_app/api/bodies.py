"""Reading request bodies: bounded, strict JSON, never a surprise."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar, cast

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from deployments.errors import BodyTooLarge, InvalidRequest
from deployments.ports import JsonValue

_Model = TypeVar("_Model", bound=BaseModel)

_IN_LOOP_BYTES = 256 * 1024
_MAX_DEPTH = 64


async def read_object(request: Request, limit_bytes: int) -> Mapping[str, JsonValue]:
    """The body as a JSON object.

    Raises `BodyTooLarge` as soon as the limit is passed, and `InvalidRequest` for anything but one JSON object in
    UTF-8 without duplicate keys, NaN or Infinity, and of sensible depth.
    """
    raw = await _read(request, limit_bytes)
    if len(raw) > _IN_LOOP_BYTES:
        return await asyncio.to_thread(parse_object, raw)
    return parse_object(raw)


async def _read(request: Request, limit_bytes: int) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit_bytes:
                raise BodyTooLarge(limit_bytes)
    except ClientDisconnect:
        raise InvalidRequest("The request body ended early.") from None
    return bytes(body)


def parse_object(raw: bytes) -> Mapping[str, JsonValue]:
    """Strict JSON from bytes; see `read_object`."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise InvalidRequest("The request body is not valid UTF-8.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"We could not parse the JSON body of your request: {error.msg} ({where}).") from None
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.") from None
    except ValueError:  # an integer of more digits than Python converts
        raise InvalidRequest("The request body holds a number that is too long.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    if _too_deep(cast(dict[str, JsonValue], value)):
        raise InvalidRequest(f"The request body is nested more than {_MAX_DEPTH} levels deep.")
    return cast(dict[str, JsonValue], value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidRequest("The request body holds an object with duplicate keys.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The request body holds {name}, which is not JSON.")


def _too_deep(value: JsonValue) -> bool:
    level: list[JsonValue] = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def parse_model(model: type[_Model], body: Mapping[str, JsonValue]) -> _Model:
    """The checked body, or `InvalidRequest` that names the field and never repeats its value."""
    try:
        # Through JSON, because strict pydantic takes a list for a tuple or set, and text for an enum, from JSON only.
        return model.model_validate_json(json.dumps(body))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        param = ".".join(map(str, first["loc"])) or None
        raise InvalidRequest(f"Invalid value for '{param or 'body'}': {first['msg']}.", param) from None
