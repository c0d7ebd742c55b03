"""Which served model stands for a tier, and what happens where a tier is not served."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from deployments.errors import UnknownModel
from deployments.ports import ModelId, Tier
from router.types import Decision


class TierTarget(NamedTuple):
    """The model that serves a tier, at the revision that new turns go to."""

    model: ModelId
    revision: str


class Targets:
    """The served tiers: at least one, each with its own model."""

    def __init__(self, tiers: Mapping[Tier, tuple[str, str]], auto_models: tuple[str, ...]) -> None:
        if not tiers:
            raise ValueError("the difficulty router needs at least one tier")
        targets = {tier: TierTarget(ModelId(model), revision) for tier, (model, revision) in tiers.items()}
        models = [target.model for target in targets.values()]
        if len(set(models)) < len(models):
            raise ValueError("two tiers name the same model: an explicit wish would be ambiguous")
        if taken := set(models) & set(auto_models):
            raise ValueError(f"the model name {sorted(taken)[0]!r} also means 'choose for me'")
        self._tiers = targets
        self._auto_models = frozenset(auto_models)

    def wished(self, model: ModelId | None) -> Tier | None:
        """The tier of a model asked for by name; None when the choice is left to us. `UnknownModel` if not served."""
        if model is None or model in self._auto_models:
            return None
        for tier, target in self._tiers.items():
            if target.model == model:
                return tier
        raise UnknownModel(model)

    def served(self, decision: Decision) -> Decision:
        """The decision on a tier that exists: a served larger tier in place of a missing base one is noted as such.

        The policy says what becomes of a turn whose larger tier is missing; one that is held keeps it.
        """
        if decision.tier in self._tiers or decision.hold is not None:
            return decision
        other = Tier.STRONG if decision.tier is Tier.BASE else Tier.BASE
        reason = "base_tier_missing" if other is Tier.STRONG else "strong_tier_missing"
        return replace(decision, tier=other, reasons=tuple(dict.fromkeys((*decision.reasons, reason))))

    def target(self, tier: Tier) -> TierTarget:
        """Model and revision of a tier; both empty for one that is not served, which only a held turn can ask for."""
        return self._tiers.get(tier, TierTarget(ModelId(""), ""))
