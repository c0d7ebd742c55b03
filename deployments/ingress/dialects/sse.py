"""Server-sent events, as far as the OpenAI dialects use them (WHATWG HTML, section 9.2)."""


class EventSplitter:
    r"""Cuts a byte stream into whole events, however it was chunked. Events end with a blank line (`\n\n`)."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events completed by `data`, each with its closing blank line."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        return [event + b"\n\n" for event in events]

    @property
    def rest(self) -> bytes:
        """Bytes of an event that has not ended."""
        return self._rest


def data_of(event: bytes) -> bytes | None:
    """The payload of an event's `data:` line, or None for a comment or another field."""
    return event[5:].strip() if event.startswith(b"data:") else None


def data_event(payload: bytes) -> bytes:
    """One event with one `data:` line."""
    return b"data: " + payload + b"\n\n"


DONE = b"data: [DONE]\n\n"
