"""What the rules of a profile find in a text, and what is to be done about it. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from deployments.guardrails.values import Action, Detector, DetectorFailed, Rule, Span, Tally, placeholder

Actions = Mapping[Detector, Action]
"""What is done about findings of each detector; one that is not there is off."""


@dataclass(frozen=True, slots=True)
class Scanner:
    """The rules that a tenant wants in one direction. `rules` are those of `actions` alone."""

    rules: tuple[Rule, ...]
    actions: Actions

    @property
    def alters(self) -> bool:
        """Whether a text may leave otherwise than it came."""
        return any(action in (Action.MASK, Action.BLOCK) for action in self.actions.values())

    def without(self, detector: Detector) -> "Scanner":
        """The same without the rules of a detector."""
        return Scanner(tuple(rule for rule in self.rules if rule.detector is not detector), self.actions)

    def spans(
        self, text: str, begin: int = 0, end: int | None = None, late: Callable[[], bool] | None = None
    ) -> list[Span]:
        """All matches in `text[begin:end]`, by their begin, the longer one first.

        `late` is asked between two rules. `DetectorFailed` when a rule breaks, or has no time left.
        """
        stop = len(text) if end is None else end
        found: list[Span] = []
        for rule in self.rules:
            if late is not None and late():
                raise DetectorFailed(rule.detector, "timeout")
            try:
                found += [Span(*each, rule.detector, rule.kind) for each in rule.find(text, begin, stop)]
            except DetectorFailed:
                raise
            except Exception as error:  # its text may hold what was looked at
                raise DetectorFailed(rule.detector, type(error).__name__) from None
        found.sort(key=lambda span: (span.start, -span.end))
        return found


@dataclass(frozen=True, slots=True)
class Piece:
    """A text as it may go on. `blocked`: it ends before something that must not be said, and nothing may follow."""

    text: str
    blocked: bool = False


def clusters(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Matches that overlap, together; in order."""
    group: list[Span] = []
    end = 0
    for span in spans:
        if group and span.start >= end:
            yield group
            group = []
        group.append(span)
        end = max(end, span.end) if len(group) > 1 else span.end
    if group:
        yield group


def apply(text: str, begin: int, end: int, spans: Sequence[Span], actions: Actions, tally: Tally) -> Piece:
    """`text[begin:end]` with what is masked replaced, up to what is blocked; every cluster of matches is counted once.

    Matches that overlap are one finding: of each action that its detectors ask for, the longest match names it. All
    that any of them masks is masked.
    """
    out: list[str] = []
    at = begin
    for group in clusters(spans):
        by_action: dict[Action, list[Span]] = {}
        for span in group:
            by_action.setdefault(actions[span.detector], []).append(span)
        for action, own in by_action.items():
            longest = max(own, key=lambda span: span.end - span.start)
            tally.add(longest.detector, longest.kind, action)
        if Action.BLOCK in by_action:
            return Piece("".join([*out, text[at : group[0].start]]), blocked=True)
        masked = by_action.get(Action.MASK, ())
        for part in clusters(masked):
            longest = max(part, key=lambda span: span.end - span.start)
            out += [text[at : part[0].start], placeholder(longest.kind)]
            at = max(span.end for span in part)
    out.append(text[at:end])
    return Piece("".join(out))


def chosen(rules: Iterable[Rule], actions: Actions, kinds: Callable[[Detector, str], bool]) -> tuple[Rule, ...]:
    """The rules whose detector is on, and whose kind is wanted."""
    return tuple(
        rule
        for rule in rules
        if actions.get(rule.detector, Action.OFF) is not Action.OFF and kinds(rule.detector, rule.kind)
    )
