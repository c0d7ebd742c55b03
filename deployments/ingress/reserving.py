"""How many tokens to set aside for an answer whose length the client does not limit: what such answers need here."""

import math
from collections import deque
from typing import Final

from deployments.ports import Effort

_FEWEST: Final = 20
_MOST: Final = 256
_SHARE: Final = 0.9


class Reserves:
    """Lengths of answers by the effort that their clients named; None: they left it to the router.

    The effort that the router will choose is not known when a request is admitted, so who names none gets what all who
    name none need. It only sets aside: the answer may be longer, and is charged as long as it was.
    """

    def __init__(self, least: int) -> None:
        """`least` tokens are set aside in any case, and while too few answers were seen."""
        self._least = least
        self._seen: dict[Effort | None, deque[int]] = {}

    def add(self, effort: Effort | None, tokens: int) -> None:
        """An answer without a limit has ended as it should, after so many tokens, its reasoning included."""
        self._seen.setdefault(effort, deque(maxlen=_MOST)).append(tokens)

    def tokens(self, effort: Effort | None) -> int:
        """What nine of ten answers need at most."""
        seen = self._seen.get(effort, ())
        if len(seen) < _FEWEST:
            return self._least
        return max(sorted(seen)[math.ceil(_SHARE * len(seen)) - 1], self._least)
