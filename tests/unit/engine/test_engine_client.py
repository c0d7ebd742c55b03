"""`EngineClient` over a handle whose deployment is gone or full: the error is ours, whatever cancelling it raises."""

import json
from collections.abc import AsyncIterator
from typing import Self

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments.clients import EngineClient
from deployments.errors import EngineFailed, EngineOverloaded, GatehouseError
from deployments.ports import EngineCall, RequestId, SessionId

_CALL = EngineCall("/v1/chat/completions", {}, json.dumps({}).encode(), RequestId("r"), SessionId("s"))
_GONE = DeploymentUnavailableError(DeploymentID("Engine", "gatehouse"))
_FULL = BackPressureError(num_queued_requests=3, max_queued_requests=2)


class Items:
    """A call that never reached a replica: Serve's raises the same again when it is cancelled."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.cancelled = 0

    def __aiter__(self) -> AsyncIterator[object]:
        return self

    async def __anext__(self) -> object:
        raise self.error

    def cancel(self) -> None:
        self.cancelled += 1
        raise self.error


class Handle:
    """A handle with one method."""

    def __init__(self, items: Items) -> None:
        self.items = items

    def options(self, **options: object) -> Self:
        assert options.keys() <= {"stream", "session_id"}
        return self

    @property
    def call(self) -> Self:
        return self

    def remote(self, call: EngineCall) -> Items:
        assert call is _CALL
        return self.items


@pytest.mark.parametrize(
    ("error", "ours"), [(_GONE, EngineFailed), (_FULL, EngineOverloaded)], ids=["unavailable", "full"]
)
async def test_a_call_that_reaches_no_replica_is_an_error_of_ours(error: Exception, ours: type[GatehouseError]) -> None:
    items = Items(error)
    with pytest.raises(ours):
        await anext(EngineClient(Handle(items), timeout_s=5.0).call(_CALL))
    assert items.cancelled == 1
