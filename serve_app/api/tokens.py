"""Counting tokens: `/tokenize`, `/detokenize`, and Anthropic's `/v1/messages/count_tokens`."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.errors import InvalidRequest
from deployments.ingress.dialects.messages import read_count
from deployments.ingress.dialects.requests import ChatMessage, Listed, Tool, invalid
from deployments.ingress.dialects.values import wanted_model
from deployments.ingress.surface import Surface
from deployments.ports import Dialect, JsonValue, RequestId
from serve_app.api.generate import Generation
from serve_app.api.streams import request_id_of


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Annotated[str, Field(max_length=256)] | None = None


class TokenizeRequest(_Question):
    """`POST /tokenize`, vLLM's shape: a text, or the messages of a chat with its tools."""

    prompt: str | None = None
    messages: Listed[ChatMessage] | None = None
    tools: Listed[Tool] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(_Question):
    """`POST /detokenize`, vLLM's shape."""

    tokens: Listed[Annotated[int, Field(ge=0, le=2**31)]]


def create_tokens_router(surface: Surface, server: Generation) -> APIRouter:
    """Everything that counts and generates nothing."""
    router = APIRouter()

    @router.post("/v1/messages/count_tokens")
    async def count_tokens(request: Request) -> JSONResponse:
        principal, body = await server.read(request)
        asked = read_count(body)
        # As an answer would be asked for: the session is known by what the client said, guardrails look after that.
        choices = surface.journey.choices_of(
            principal, request.headers, body, asked.body, Dialect.MESSAGES, asked.model
        )
        words = await surface.journey.screened(principal, RequestId(request_id_of(request)), Dialect.MESSAGES, body)
        tokens = await surface.inquiries.count(words.principal, read_count(words.body), choices)
        return JSONResponse({"input_tokens": tokens})

    @router.post("/tokenize")
    async def tokenize(request: Request) -> JSONResponse:
        principal, body = await server.question(request, Dialect.CHAT)
        asked = _checked(TokenizeRequest, body)
        if (asked.prompt is None) == (asked.messages is None):
            raise InvalidRequest("Give either 'prompt' or 'messages'.", "prompt")
        model = wanted_model(asked.model)
        if asked.messages is None:
            return JSONResponse(await surface.inquiries.ask(principal, model, "/tokenize", _without_model(body)))
        if asked.return_token_strs:
            raise InvalidRequest(
                "'return_token_strs' goes with 'prompt' only.", "return_token_strs", "unsupported_parameter"
            )
        # vLLM's own answer applies a chat template; gpt-oss is asked in harmony, which is longer.
        ids = await surface.inquiries.render(principal, model, body)
        window = surface.inquiries.window(principal, model)
        return JSONResponse({"count": len(ids), "max_model_len": window, "tokens": ids, "token_strs": None})

    @router.post("/detokenize")
    async def detokenize(request: Request) -> JSONResponse:
        principal, body = await server.question(request, Dialect.CHAT)
        asked = _checked(DetokenizeRequest, body)
        model = wanted_model(asked.model)
        return JSONResponse(await surface.inquiries.ask(principal, model, "/detokenize", _without_model(body)))

    return router


def _checked(model: type[Any], body: Mapping[str, JsonValue]) -> Any:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise invalid(error) from None


def _without_model(body: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    return {name: value for name, value in body.items() if name != "model" and value is not None}
