"""`InMemoryAudit`: the audit port without a disk. It checks the schema as strictly as the real sink."""

from collections.abc import Sequence

from deployments.audit.chain import GENESIS, leaf_hash, link
from deployments.audit.record import encode, validate
from deployments.errors import AuditRefused, AuditUnavailable
from deployments.ports import AuditEvent, AuditHead, Receipt


class InMemoryAudit:
    """Implements `ports.Audit`. `events` is what was acknowledged, in order; set `down` to make every call fail."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.down = False
        self._places: dict[str, int] = {}
        self._leaves: list[bytes] = []
        self._head = GENESIS

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        if self.down:
            raise AuditUnavailable("The audit log is down.")
        for event in events:
            validate(event)
            known = self._places.get(event.event_id)
            if known is not None and self.events[known] != event:
                raise AuditRefused("The audit log refuses an event id with other content than before.")
        receipts: list[Receipt] = []
        for event in events:
            index = self._places.get(event.event_id)
            if index is None:
                index = len(self.events)
                self._places[event.event_id] = index
                self.events.append(event)
                self._leaves.append(leaf_hash(encode(event, index, "test")))
                self._head = link(self._head, self._leaves[-1])
            receipts.append(Receipt(index, self._leaves[index]))
        return receipts

    async def head(self) -> AuditHead:
        if self.down:
            raise AuditUnavailable("The audit log is down.")
        return AuditHead(size=len(self.events), head_hash=self._head.hex())

    def names(self) -> list[str]:
        """Names of the acknowledged events, in order."""
        return [event.name for event in self.events]

    def named(self, name: str) -> list[AuditEvent]:
        """The acknowledged events called `name`, in order."""
        return [event for event in self.events if event.name == name]
