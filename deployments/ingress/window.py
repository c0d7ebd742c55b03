"""Does a request fit the model's context window? Asked before an engine is.

The count is a lower bound: the client's own text, without what the chat format adds. Whoever is over the window by
that count is over it for certain; the engine has the last word on the rest.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from deployments.errors import ContextTooLong
from deployments.ingress.dialects.values import Asked
from deployments.ports import Dialect

# Text is counted in pieces: tokenisers slow down on very long runs without blanks, and an absurd prompt need not be
# read to its end. A cut can split one token in two, so every piece counts one less.
_PIECE_CHARS = 20_000
_BATCHED = (Dialect.COMPLETIONS, Dialect.EMBEDDINGS)
_PARAM = {
    Dialect.CHAT: "messages",
    Dialect.COMPLETIONS: "prompt",
    Dialect.RESPONSES: "input",
    Dialect.MESSAGES: "messages",
    Dialect.EMBEDDINGS: "input",
}


class Window:
    """The context window of one model.

    `limit` is in tokens. `count` answers how many tokens a text has, or is None when no tokenizer of the model is at
    hand; then only token-id prompts are checked here.
    """

    def __init__(self, limit: int, count: Callable[[str], int] | None) -> None:
        self.limit = limit
        self._count = count

    async def check(self, asked: Asked) -> None:
        """Raise `ContextTooLong` when the prompt alone fills the window."""
        param = _PARAM[asked.dialect]
        if asked.prompt_ids >= self.limit:
            raise ContextTooLong(asked.prompt_ids, self.limit, param)
        texts = asked.prompt_texts
        if asked.dialect in _BATCHED:  # every text is a prompt of its own
            texts = (max(texts, key=len, default=""),)
        # A token is at least one character: most requests end here, uncounted.
        if self._count is None or sum(len(text) for text in texts) < self.limit:
            return
        tokens = await asyncio.to_thread(self._tokens, texts, self._count)
        if tokens >= self.limit:
            raise ContextTooLong(tokens, self.limit, param)

    async def tokens(self, asked: Asked) -> int:
        """How many tokens the texts of a request have; where no tokenizer is at hand, four characters make one."""
        if self._count is None:
            return asked.prompt_ids + sum(len(text) for text in asked.prompt_texts) // 4
        return asked.prompt_ids + await asyncio.to_thread(self._tokens, asked.prompt_texts, self._count)

    def clamp(self, asked: Asked) -> Asked:
        """The request without an answer limit that no prompt could leave room for.

        Agents send a fixed `max_tokens` (opencode and Claude Code: 32,000) whatever the window is. Without one the
        engine answers up to the end of the window, which is what they mean.
        """
        if asked.max_tokens is None or asked.max_tokens < self.limit:
            return asked
        return without_max_tokens(asked)

    def _tokens(self, texts: Sequence[str], count: Callable[[str], int]) -> int:
        total = 0
        for text in texts:
            for start in range(0, len(text), _PIECE_CHARS):
                piece = count(text[start : start + _PIECE_CHARS])
                total += piece - 1 if start else piece
                if total >= 4 * self.limit:  # far over: the exact figure interests nobody
                    return total
        return total


def without_max_tokens(asked: Asked) -> Asked:
    """The same request with the answer limited by the window alone."""
    body = {name: value for name, value in asked.body.items() if name not in ("max_tokens", "max_completion_tokens")}
    return replace(asked, body=body, max_tokens=None)
