"""Which models a tenant's words may reach: all that are local, and those elsewhere that its rule names. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from deployments.errors import Forbidden
from deployments.ports import Egress, ModelId, Principal, Tier


@dataclass(frozen=True, slots=True)
class Reach:
    """Where one model runs. `local` means that prompts stay on the operator's premises."""

    model: ModelId
    local: bool


def may_reach(model: ModelId, local: bool, egress: Egress) -> bool:
    """Whether words of a tenant with this rule may go to `model`."""
    return local or egress.allows(model)


def usable_tiers(principal: Principal, served: Iterable[tuple[Tier, Reach]]) -> frozenset[Tier] | None:
    """The tiers whose models a key may use and its words may reach; None when these are all, or none at all.

    The router then chooses among these. That none is left is for whoever refuses the model to say.
    """
    ranked = tuple(served)
    found = frozenset(
        tier
        for tier, each in ranked
        if principal.may_use(each.model) and may_reach(each.model, each.local, principal.egress)
    )
    return found if 0 < len(found) < len(ranked) else None


def wish(asked: ModelId | None, egress: Egress, usable: Iterable[Reach]) -> ModelId | None:
    """The model to ask the router for. `usable` are the models that are served and granted to the key.

    Where the rule lets every one of them be reached, that is what the client asked for. Else an explicit wish for one
    that may not be reached is refused; the router's choice ("auto", None) is narrowed to the model that is left when it
    is just one. The router honours a wish only inside its floors, so its decision goes through `check` in any case.

    Raises:
        Forbidden: nothing that was asked for may be reached.
    """
    models = tuple(usable)
    within = [each.model for each in models if may_reach(each.model, each.local, egress)]
    if len(within) == len(models):
        return asked
    if not within or (asked is not None and asked not in within):
        raise _refusal()
    return within[0] if asked is None and len(within) == 1 else asked


def check(decided: ModelId, egress: Egress, served: Iterable[Reach]) -> None:
    """The last word before a request leaves: a model that is not known to be local needs to be in the rule.

    Raises:
        Forbidden: the tenant may not reach the model that was decided on.
    """
    if not egress.allows(decided) and not any(each.local and each.model == decided for each in served):
        raise _refusal()


def _refusal() -> Forbidden:
    return Forbidden(
        "This key's requests may only reach models on the premises, and those elsewhere that its tenant's rule names; "
        "none of these may answer this one."
    )
