"""The dialects that are served."""

from collections.abc import Mapping

from deployments.ingress.dialects.chat import ChatCodec
from deployments.ingress.dialects.completions import CompletionCodec
from deployments.ingress.dialects.values import Codec
from deployments.ports import Dialect

CODECS: Mapping[Dialect, Codec] = {Dialect.CHAT: ChatCodec(), Dialect.COMPLETIONS: CompletionCodec()}
