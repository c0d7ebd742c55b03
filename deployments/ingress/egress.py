"""Which models a tenant's prompts may reach: a tenant without egress never reaches one that is not local. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from deployments.errors import Forbidden
from deployments.ports import ModelId


@dataclass(frozen=True, slots=True)
class Reach:
    """Where one model runs. `local` means that prompts stay on the operator's premises."""

    model: ModelId
    local: bool


def wish(asked: ModelId | None, egress: bool, usable: Iterable[Reach]) -> ModelId | None:
    """The model to ask the router for. `usable` are the models that are served and granted to the key.

    With egress, or where everything is local, that is what the client asked for. Without, an explicit wish for a model
    that is not local is refused; the router's choice ("auto", None) is narrowed to the local model when just one is
    left. The router honours a wish only inside its floors, so its decision goes through `check` in any case.

    Raises:
        Forbidden: nothing that was asked for may be reached.
    """
    models = tuple(usable)
    if egress or all(each.local for each in models):
        return asked
    local = [each.model for each in models if each.local]
    if not local or (asked is not None and asked not in local):
        raise _refusal()
    return local[0] if asked is None and len(local) == 1 else asked


def check(decided: ModelId, egress: bool, served: Iterable[Reach]) -> None:
    """The last word before a request leaves: a model that is not known to be local needs egress.

    Raises:
        Forbidden: the tenant may not reach the model that was decided on.
    """
    if not egress and not any(each.local and each.model == decided for each in served):
        raise _refusal()


def _refusal() -> Forbidden:
    return Forbidden("This key's requests must stay on the premises, and no local model may answer this one.")
