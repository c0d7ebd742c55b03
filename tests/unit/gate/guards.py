"""What stands around a guard under test: a turn and its calls, a log with faults, a classifier that does not answer."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from deployments.gate.circumstances import PLAIN, Circumstances
from deployments.gate.classify import Classification, Classifier
from deployments.gate.policy import Bundle
from deployments.gate.shell.reader import ShellReader
from deployments.ports import (
    AuditEvent,
    GateContext,
    GateProfile,
    JsonValue,
    KeyId,
    ModelId,
    Principal,
    Receipt,
    RequestId,
    RouteId,
    Scope,
    SessionId,
    TenantId,
    ToolCall,
)
from tests.fakes_audit import InMemoryAudit

AGENT = Principal(TenantId("acme"), KeyId("key_agent"), "ann", frozenset({Scope.INFERENCE}))
READ = '{"command":"kubectl get pods"}'
DELETE = '{"command":"kubectl delete namespace staging"}'


def context(profile: GateProfile = GateProfile.OPS, tools: frozenset[str] = frozenset({"shell"})) -> GateContext:
    """A turn of the agent."""
    return GateContext(
        RequestId("req_1"),
        replace(AGENT, gate_profile=profile),
        SessionId("s1"),
        ModelId("demo-20b"),
        RouteId("rt_1"),
        tools,
    )


def call(arguments: str = READ, name: str = "shell", index: int = 0, recovered: bool = False) -> ToolCall:
    """A call of that turn, under an id that counts."""
    return ToolCall(f"call_{index}", 0, index, name, arguments, recovered)


class Stuck(Classifier):
    """Answers only when it is told to go on; a test must do so before it ends, since the loop waits for its threads."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, ShellReader(timeout_s=20.0))
        self.go_on = threading.Event()

    def classify(
        self,
        tool: str,
        arguments: str | Mapping[str, JsonValue],
        profile: GateProfile = GateProfile.OPS,
        circumstances: Circumstances = PLAIN,
    ) -> Classification:
        self.go_on.wait(60)
        return super().classify(tool, arguments, profile, circumstances)


class Log(InMemoryAudit):
    """Remembers which events came together; of each append in turn `faults` says what becomes of it.

    An exception is raised; "silent" never answers; "slow" answers after a while; "short" lacks a receipt; "" is well.
    """

    def __init__(self, *faults: Exception | str) -> None:
        super().__init__()
        self.appends: list[list[str]] = []
        self.faults = list(faults)

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        self.appends.append([event.name.removeprefix("tool_call.") for event in events])
        fault = self.faults.pop(0) if self.faults else ""
        if isinstance(fault, Exception):
            raise fault
        if fault == "silent":
            await asyncio.Event().wait()
        for _ in range(50 if fault == "slow" else 0):
            await asyncio.sleep(0)
        receipts = await super().append(events)
        return receipts[:-1] if fault == "short" else receipts
