"""A canary that a driver in a pod is to begin: written by a person's command, read from a mounted ConfigMap.

An order is carried out once. What keeps an old one from being taken up again is not the file, which stays where it is:
the RayService remembers the names of its canaries, and an order is void after a while, should that memory be gone.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from serve_app.api.bodies import GivenId
from serve_app.canary.driver import Driver, Order
from serve_app.canary.values import CanaryError, Memory, Terms, printable
from serve_app.config import explain

CONFIG_MAP: Final = "gatehouse-canary"
KEY: Final = "order.json"
_MOST_BYTES: Final = 900_000  # of all of a ConfigMap the API server takes 1 MiB


class Ordered(BaseModel):
    """The content of `order.json`. `until`: it is not begun after that, by the API server's clock."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: GivenId
    change_id: GivenId
    by: Annotated[str, StringConstraints(pattern=r"\A[^\x00-\x1f\x7f]{1,200}\z")]
    until: AwareDatetime
    terms: Terms = Field(default_factory=Terms)
    rayClusterConfig: dict[str, Any]
    serveConfigV2: str

    def to_order(self) -> Order:
        """The same, as the driver knows it."""
        return Order(self.id, self.change_id, self.by, self.rayClusterConfig, self.serveConfigV2, self.terms)


def ordered(order: Order, until_ms: int) -> Ordered:
    """An order as it is written down; `CanaryError` for a name that the audit log would refuse."""
    try:
        return Ordered(
            id=order.id,
            change_id=order.change_id,
            by=printable(order.by)[:200],
            until=datetime.fromtimestamp(until_ms // 1000, UTC),
            terms=order.terms,
            rayClusterConfig=dict(order.cluster),
            serveConfigV2=order.serve_config,
        )
    except ValidationError as error:
        raise CanaryError(explain(error)) from None


def config_map(order: Ordered, namespace: str) -> dict[str, Any]:
    """The ConfigMap that hands an order over; `CanaryError` for one that is too large."""
    text = order.model_dump_json()
    if len(text.encode()) > _MOST_BYTES:
        raise CanaryError("the specification is too large for a ConfigMap.")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": namespace},
        "data": {KEY: text},
    }


def read(path: Path) -> Ordered | None:
    """What is ordered; None while there is no such file. `CanaryError` when it cannot be read."""
    try:
        return Ordered.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CanaryError(f"the order {path} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        raise CanaryError(f"the order {path} is refused: {explain(error)}") from None


def look(driver: Driver, path: Path) -> tuple[Memory | None, str]:
    """One look at the canary that is open, or the beginning of the one that is ordered; and what is to be said of it.

    A canary that is open comes first: an order that nobody can read does not keep it from going back.
    """
    memory = driver.look()
    if memory is not None and not (memory.phase.final and not memory.outbox):
        return memory, said(memory)
    before = "no canary is open" if memory is None else f"the canary {memory.id} is {memory.phase.value}"
    order = read(path)
    if order is None:
        return memory, f"{before}; nothing is ordered"
    if memory is not None and order.id in (memory.id, *memory.earlier):
        return memory, f"{before}; the order {order.id} was carried out"
    if driver.now_ms() > order.until.timestamp() * 1000:
        return memory, f"{before}; the order {order.id} was valid until {order.until.isoformat()} and is not begun"
    begun = driver.start(order.to_order())
    return begun, f"{begun.id} begins, under {begun.change_id}"


def said(memory: Memory) -> str:
    """Where a canary stands, in one line."""
    state = memory.phase.value if memory.held is None else f"{memory.phase.value} (held)"
    return f"{state} {memory.share} %: {memory.why}"
