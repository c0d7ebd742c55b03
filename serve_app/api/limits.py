"""Rate-limit headers, in the words of each dialect (wire contract, section 4)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from deployments.ports import Dialect, Limit


def limit_headers(limits: Sequence[Limit], dialect: Dialect, now: datetime | None = None) -> Mapping[str, str]:
    """What an answer says of the limits it was admitted under. Resets are durations, on messages moments."""
    headers: dict[str, str] = {}
    at = now or datetime.now(UTC)  # noqa: TID251 - a moment for a person, or a client's clock; nothing is decided by it
    for each in limits:
        if dialect is Dialect.MESSAGES:
            moment = at + timedelta(seconds=each.reset_s)
            prefix, reset = f"anthropic-ratelimit-{each.kind.value}", moment.strftime("%Y-%m-%dT%H:%M:%SZ")
            headers |= {f"{prefix}-limit": str(each.limit), f"{prefix}-remaining": str(each.remaining)}
            headers[f"{prefix}-reset"] = reset
        else:
            headers |= {
                f"x-ratelimit-limit-{each.kind.value}": str(each.limit),
                f"x-ratelimit-remaining-{each.kind.value}": str(each.remaining),
                f"x-ratelimit-reset-{each.kind.value}": _duration(each.reset_s),
            }
    return headers


def _duration(seconds: int) -> str:
    """`6m0s`, `1s`: the form OpenAI sends."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
