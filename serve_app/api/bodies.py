"""Reading request bodies: bounded, strict JSON, never a surprise."""

import asyncio
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, NoReturn, TypeAlias, TypeVar, cast

from pydantic import BaseModel, StringConstraints, ValidationError
from starlette.requests import ClientDisconnect, Request

from deployments.errors import BodyTooLarge, EngineOverloaded, InvalidRequest
from deployments.ports import JsonValue

_Model = TypeVar("_Model", bound=BaseModel)

_IN_LOOP_BYTES = 256 * 1024
_MAX_DEPTH = 64
_MAX_PARTS = 200_000  # a megabyte of them takes what a conversation of many megabytes of text does not
_TIMEOUT_S = 60.0
_TYPES = ("", "application/json", "text/json", "text/plain", "application/x-www-form-urlencoded")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Intake:
    """Reads request bodies of one replica: each one bounded in size and time, and all of them together in memory.

    `limit_bytes` bounds a body, `total_bytes` what is being read at one moment, `timeout_s` how long a body may take: a
    client that sends a byte a minute holds nothing for long.
    """

    def __init__(self, limit_bytes: int, total_bytes: int, timeout_s: float) -> None:
        self._limit_bytes = limit_bytes
        self._total_bytes = max(total_bytes, limit_bytes)
        self._timeout_s = timeout_s
        self._held_bytes = 0

    async def read_object(self, request: Request) -> Mapping[str, JsonValue]:
        """The body as a JSON object.

        Raises `BodyTooLarge` as soon as the limit is passed, `EngineOverloaded` when too much is being read, and
        `InvalidRequest` for anything but one JSON object in UTF-8 without duplicate keys, NaN or Infinity, of sensible
        depth, that arrives in time. Half a surrogate pair, which is no text, becomes U+FFFD.
        """
        _check_type(request)
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:19]) > self._limit_bytes:
            raise BodyTooLarge(self._limit_bytes)
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > self._limit_bytes:  # first: this refusal is final, the other one is not
                        raise BodyTooLarge(self._limit_bytes)
                    if self._held_bytes + len(chunk) > self._total_bytes:
                        raise EngineOverloaded("Too many large requests at once. Please try again in 2s.", 2)
                    self._held_bytes += len(chunk)
                    body += chunk
            if len(body) > _IN_LOOP_BYTES:
                return await asyncio.to_thread(parse_object, bytes(body))
            return parse_object(bytes(body))
        except ClientDisconnect:
            raise InvalidRequest("The request body ended early.") from None
        except TimeoutError:
            raise InvalidRequest(f"The request body did not arrive in {self._timeout_s:g} s.") from None
        finally:
            self._held_bytes -= len(body)


async def read_object(request: Request, limit_bytes: int) -> Mapping[str, JsonValue]:
    """The body as a JSON object, for endpoints that few use; see `Intake`."""
    return await Intake(limit_bytes, limit_bytes, _TIMEOUT_S).read_object(request)


def _check_type(request: Request) -> None:
    """JSON by any name it is commonly sent under (curl's default included), in UTF-8, uncompressed."""
    if request.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise InvalidRequest("Compressed request bodies are not supported; send the JSON as it is.", "content-encoding")
    kind, _, options = request.headers.get("content-type", "").lower().partition(";")
    kind = kind.strip()
    if kind not in _TYPES and not kind.endswith("+json"):
        raise InvalidRequest("The request body must be JSON: send 'Content-Type: application/json'.", "content-type")
    charset = options.partition("charset=")[2].partition(";")[0].strip().strip('"')
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise InvalidRequest("The request body must be UTF-8.", "content-type")


def parse_object(raw: bytes) -> Mapping[str, JsonValue]:
    """Strict JSON from bytes; see `read_object`."""
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
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
    if _SURROGATE.search(text):
        value = _mended(cast(dict[str, JsonValue], value))
    return cast(dict[str, JsonValue], value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidRequest("The request body holds an object with duplicate keys.")
    return value


def _finite(digits: str) -> float:
    """A number that JSON can write again: `1e999` would come out as Infinity."""
    number = float(digits)
    if not math.isfinite(number):
        raise InvalidRequest("The request body holds a number that is too large.")
    return number


def _mended(value: JsonValue) -> JsonValue:
    """The value with U+FFFD for every lone surrogate.

    JSON can spell them (clients cut texts in the middle of an emoji), UTF-8 cannot: no engine, database or log takes
    them. They are not refused, because an agent replays its history with every turn and would never get out of it.
    """
    match value:
        case str():
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case list():
            return [_mended(each) for each in value]
        case dict():
            return _unique([(str(_mended(key)), _mended(each)) for key, each in value.items()])
        case _:
            return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The request body holds {name}, which is not JSON.")


def _too_deep(value: JsonValue) -> bool:
    level: list[JsonValue] = [value]
    seen = 0
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
        seen += len(level)
        if seen > _MAX_PARTS:
            raise InvalidRequest(f"The request body holds more than {_MAX_PARTS} objects and lists.")
    return True


ID_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}"
"""Ids that operators and their systems give: of changes, incidents, rollouts."""

TenantName: TypeAlias = Annotated[str, StringConstraints(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}\z")]
GivenId: TypeAlias = Annotated[str, StringConstraints(pattern=rf"\A{ID_PATTERN}\z")]


def parse_model(model: type[_Model], body: Mapping[str, JsonValue]) -> _Model:
    """The checked body, or `InvalidRequest` that names the field and never repeats its value."""
    try:
        # Through JSON, because strict pydantic takes a list for a tuple or set, and text for an enum, from JSON only.
        return model.model_validate_json(json.dumps(body))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        param = ".".join(map(str, first["loc"])) or None
        raise InvalidRequest(f"Invalid value for '{param or 'body'}': {first['msg']}.", param) from None
