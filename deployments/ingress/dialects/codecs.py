"""The dialects that are served."""

from collections.abc import Mapping

from deployments.ingress.dialects.chat import ChatCodec
from deployments.ingress.dialects.completions import CompletionCodec
from deployments.ingress.dialects.embeddings import EmbeddingsCodec
from deployments.ingress.dialects.fim import FimTemplate
from deployments.ingress.dialects.messages import MessagesCodec
from deployments.ingress.dialects.responses import ResponsesCodec
from deployments.ingress.dialects.values import Codec
from deployments.ports import Dialect, ModelId


def make_codecs(
    fim: Mapping[ModelId, FimTemplate] | None = None, default_fim: ModelId | None = None, emulate_fim: bool = False
) -> Mapping[Dialect, Codec]:
    """One codec per dialect. `fim` holds the models that fill in the middle by a template of their own."""
    return {
        Dialect.CHAT: ChatCodec(),
        Dialect.COMPLETIONS: CompletionCodec(fim or {}, emulate_fim, default_fim),
        Dialect.RESPONSES: ResponsesCodec(),
        Dialect.MESSAGES: MessagesCodec(),
        Dialect.EMBEDDINGS: EmbeddingsCodec(),
    }
