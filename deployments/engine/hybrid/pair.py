"""Prefill on engines of its own (P/D): what the two halves of a pair are asked. Pure.

A prompt is read by a prefill engine, which answers where its key-value blocks lie; the decode engine fetches them and
generates. The prefill is a help, never an authority: when it is not to be had, the decode engine reads the prompt
itself, and a request that is wrong is refused by the decode engine alone. Protocol: `kv_transfer_params` of vLLM's
connectors (docs.vllm.ai, "Disaggregated Prefilling").
"""

import json
import logging
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from deployments.errors import EngineFailed, EngineOverloaded, EngineTimeout
from deployments.ports import Engine, EngineCall, EngineStart, RequestId

_log = logging.getLogger("gatehouse.engine")
_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
_ONLY_FOR_ANSWERS = ("stream_options", "min_tokens", "logprobs", "top_logprobs")
_NEEDS_THE_PROMPT = ("prompt_logprobs", "echo")  # its logits are known only where it was read
_REMOTE_DECODE = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
}
_MOST_REPLY_BYTES = 1 << 20
_OK = 200
_FULL = (429, 503)


class PrefillFirst:
    """Asks the prefill half of a pair, for requests longer than `longer_than` bytes: others are not worth the trip."""

    def __init__(self, prefill: Engine, longer_than: int) -> None:
        self._prefill = prefill
        self._longer_than = longer_than

    async def ahead(self, call: EngineCall) -> EngineCall:
        """The call for the decode engine, with the place of its key-value blocks where a prefill has been made.

        Raises `EngineOverloaded` when the prefill engines have all they can take: reading the prompts here instead
        would stop the answers that are being generated, which is what the pair is there to prevent.
        """
        if call.path not in _PATHS or len(call.body) <= self._longer_than:
            return call
        request = _request(call.body)
        if request is None:
            return call
        ask = replace(
            call,
            body=_dump(prefill_request(request)),
            request_id=RequestId(f"{call.request_id}-prefill"),
            counted=False,  # the decode engine counts the prompt, too
        )
        try:
            where = await self._where(ask)
        except (EngineFailed, EngineTimeout) as error:
            _log.warning("prefill engine: %s; the decode engine reads the prompt", error.code)
            return call
        if where is None:
            return call
        return replace(call, body=_dump({**request, "kv_transfer_params": where}))

    async def _where(self, ask: EngineCall) -> Mapping[str, Any] | None:
        status, reply = 0, bytearray()
        async with aclosing(self._prefill.call(ask)) as items:
            async for item in items:
                if isinstance(item, EngineStart):
                    status = item.status
                elif isinstance(item, bytes) and len(reply) < _MOST_REPLY_BYTES:
                    reply += item
        if status in _FULL:
            raise EngineOverloaded("The model is busy. Please try again in 2s.", 2)
        return blocks_of(bytes(reply)) if status == _OK else None


def prefill_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request that makes a prefill engine read the prompt and keep its blocks: one token, whole, not streamed.

    What shapes the prompt stays as it is, tools and formats among it: both engines must see the same tokens.
    """
    asked = {name: value for name, value in request.items() if name not in _ONLY_FOR_ANSWERS}
    if "max_completion_tokens" in asked:
        asked["max_completion_tokens"] = 1
    return asked | {"max_tokens": 1, "n": 1, "stream": False, "kv_transfer_params": dict(_REMOTE_DECODE)}


def blocks_of(reply: bytes) -> Mapping[str, Any] | None:
    """Where the blocks of an answered prefill lie, or None when it kept none."""
    try:
        answer = cast(object, json.loads(reply))
    except ValueError:
        return None
    where = cast(dict[str, Any], answer).get("kv_transfer_params") if isinstance(answer, dict) else None
    if not isinstance(where, dict) or not cast(dict[str, Any], where).get("do_remote_prefill"):
        return None
    return cast(dict[str, Any], where)


def _request(body: bytes) -> dict[str, Any] | None:
    """The request, if a pair can take it; else None: the decode engine answers alone, or refuses."""
    try:
        request = cast(object, json.loads(body))
    except ValueError:
        return None
    if not isinstance(request, dict):
        return None
    fields = cast(dict[str, Any], request)
    if any(fields.get(name) for name in _NEEDS_THE_PROMPT):
        return None
    several = isinstance(fields.get("prompt"), list) and not all(
        isinstance(token, int) for token in cast(list[object], fields["prompt"])
    )
    return None if several else fields


def _dump(request: Mapping[str, Any]) -> bytes:
    return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
