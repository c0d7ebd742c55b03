"""The guardrails of all tenants, ready to look."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from deployments.guardrails import names, pii, secrets
from deployments.guardrails.look import Look
from deployments.guardrails.scan import Actions, Scanner, chosen
from deployments.guardrails.settings import GuardrailSettings, ProfileSettings
from deployments.guardrails.values import Action, Detector, Direction, Rule, Span

RULES: Final[tuple[Rule, ...]] = pii.RULES + secrets.RULES


@dataclass(frozen=True, slots=True)
class Guard:
    """The guardrails of one tenant. `input` and `output` are None where nothing is looked for."""

    profile: ProfileSettings
    input: Scanner | None
    output: Scanner | None
    known: dict[bytes, tuple[Span, ...]] = field(default_factory=dict[bytes, "tuple[Span, ...]"])

    def look_in(self, late: Callable[[], bool]) -> Look:
        """A look at a request; `late` says when its time is over."""
        scanner = self.input or Scanner((), {})
        return Look(scanner, self.profile.required, Direction.INPUT, late, self.known)

    def look_out(self) -> Look | None:
        """A look at an answer; None where nothing is looked for."""
        return None if self.output is None else Look(self.output, self.profile.required, Direction.OUTPUT)


class Guardrails:
    """Knows the guard of each tenant."""

    def __init__(
        self,
        settings: GuardrailSettings,
        rules: Iterable[Rule] = RULES,
        load_names: Callable[[names.NameSettings], names.Analyze | None] = names.load_presidio,
    ) -> None:
        """`load_names` is asked for each different library setup that a profile wants."""
        self._rules = tuple(rules)
        self._loaded: dict[str, tuple[Rule, ...]] = {}
        self._load_names = load_names
        self._default = self._guard(settings.default)
        self._tenants = {name: self._guard(profile) for name, profile in settings.tenants.items()}
        self._settings = settings

    def of(self, tenant: str) -> Guard | None:
        """The guard of a tenant; None where nothing is looked for."""
        if tenant in self._tenants:
            return self._tenants[tenant]
        if self._default is None:
            return None
        # Of its own: what was found in other tenants' texts must not show in how long this one's take.
        self._tenants[tenant] = self._guard(self._settings.default)
        return self._tenants[tenant]

    def _guard(self, profile: ProfileSettings) -> Guard | None:
        before = _on({Detector.PII: profile.pii.input, Detector.SECRETS: profile.secrets.input,
                      Detector.NAMES: profile.names.input})  # fmt: skip
        after = _on({Detector.PII: profile.pii.output, Detector.SECRETS: profile.secrets.output})
        if not before and not after and profile.injection.input is Action.OFF:
            return None
        rules = (*self._rules, *self._names(profile)) if Detector.NAMES in before else self._rules

        def wanted(detector: Detector, kind: str) -> bool:
            given = {Detector.PII: profile.pii.kinds, Detector.SECRETS: profile.secrets.kinds}.get(detector)
            return given is None or kind in given

        return Guard(profile, _scanner(rules, before, wanted), _scanner(rules, after, wanted))

    def _names(self, profile: ProfileSettings) -> tuple[Rule, ...]:
        key = profile.names.model_dump_json(exclude={"input"})
        if key not in self._loaded:
            self._loaded[key] = names.rules_of(profile.names, self._load_names)
        return self._loaded[key]


def _on(actions: Actions) -> Actions:
    return {detector: action for detector, action in actions.items() if action is not Action.OFF}


def _scanner(rules: Iterable[Rule], actions: Actions, wanted: Callable[[Detector, str], bool]) -> Scanner | None:
    return Scanner(chosen(rules, actions, wanted), actions) if actions else None
