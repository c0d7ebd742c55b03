"""When the window of a budget begins and ends. Pure; times are milliseconds since the epoch, calendars are UTC."""

from datetime import UTC, datetime, timedelta

from deployments.limits import Budget, Window

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def window_of(budget: Budget, at_ms: int) -> tuple[int, int | None]:
    """The window that holds `at_ms`: its first millisecond, and the first one after it (None: it never ends)."""
    if budget.window is Window.TOTAL:
        return 0, None
    if budget.window is Window.FIXED:
        every_ms = (budget.every_s or 1) * 1000
        start_ms = budget.anchor_ms + (at_ms - budget.anchor_ms) // every_ms * every_ms
        return start_ms, start_ms + every_ms
    at = _EPOCH + timedelta(milliseconds=at_ms)
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    match budget.window:
        case Window.HOUR:
            start = at.replace(minute=0, second=0, microsecond=0)
            end = start + timedelta(hours=1)
        case Window.DAY:
            start, end = day, day + timedelta(days=1)
        case Window.WEEK:
            start = day - timedelta(days=day.weekday())
            end = start + timedelta(weeks=1)
        case _:
            start = day.replace(day=1)
            end = (start + timedelta(days=32)).replace(day=1)
    return _ms(start), _ms(end)


def rfc3339(at_ms: int) -> str:
    """A moment as people read it, to the second."""
    return (_EPOCH + timedelta(milliseconds=at_ms)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ms(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)
