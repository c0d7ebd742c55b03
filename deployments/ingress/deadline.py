"""How long the caller will wait, where its SDK says so. A hint: it starts nothing anew and cuts nothing off."""

import math
from collections.abc import Mapping
from typing import Final

_WHOLE: Final = "x-stainless-timeout"  # seconds for a request, its retries apart
_SILENCE: Final = "x-stainless-read-timeout"  # seconds without a byte, which for an unstreamed reply is all of it
_MOST_S: Final = 86_400.0


def patience_s(headers: Mapping[str, str], stream: bool) -> float | None:
    """Seconds from the request on after which the caller gives up; None when it does not say, or not in numbers."""
    names = (_WHOLE,) if stream else (_WHOLE, _SILENCE)
    said = [seconds for name in names if (seconds := _seconds(headers.get(name, ""))) is not None]
    return min(said, default=None)


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return min(seconds, _MOST_S) if math.isfinite(seconds) and seconds > 0 else None
