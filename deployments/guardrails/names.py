"""Names of people and places, by Presidio. An optional library: what is missing is said, never looked past.

Presidio (MIT; 2.2 and later) fetches a spaCy model that it lacks, so one that is not on this machine is never asked
for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol, cast

from deployments.guardrails.settings import NameSettings
from deployments.guardrails.values import Detector, DetectorFailed

_PIECE_CHARS: Final = 50_000  # spaCy refuses a million at once, and a piece is what can be late


class _Found(Protocol):
    """What is read of Presidio's `RecognizerResult`."""

    entity_type: str
    start: int
    end: int
    score: float


class Analyze(Protocol):
    """What is used of Presidio's `AnalyzerEngine.analyze`."""

    def __call__(self, *, text: str, language: str, entities: list[str]) -> Sequence[_Found]:
        """What stands in a text, of these entities; places are of its characters."""
        ...


class Analysis:
    """Presidio's view of a text for all entities of a profile at once: reading it is what costs."""

    def __init__(self, settings: NameSettings, analyze: Analyze) -> None:
        self._settings = settings
        self._analyze = analyze
        self._last: tuple[str, Sequence[_Found]] | None = None

    def of(self, text: str) -> Sequence[_Found]:
        """What stands in a text and is certain enough, in order."""
        last = self._last
        if last is not None and last[0] == text:
            return last[1]
        found = self._analyze(text=text, language=self._settings.language, entities=list(self._settings.entities))
        certain = [each for each in found if each.score >= self._settings.min_score]
        certain.sort(key=lambda each: each.start)
        self._last = (text, certain)
        return certain


class NameRule:
    """One entity of Presidio. Implements `values.Rule`, of whole texts."""

    detector = Detector.NAMES

    def __init__(self, entity: str, analysis: Analysis | None) -> None:
        """`analysis` None: the library or its model is missing."""
        self.kind = entity.lower()
        self._entity = entity
        self._analysis = analysis

    def find(self, text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Where one stands in `text[begin:end]`. `DetectorFailed` without the library."""
        if self._analysis is None:
            raise DetectorFailed(self.detector, "missing")
        done = begin
        for start in range(begin, end, _PIECE_CHARS):
            part = text[start : min(end, start + _PIECE_CHARS)]
            for each in self._analysis.of(part):
                if each.entity_type == self._entity and start + each.start >= done:
                    done = start + each.end
                    yield start + each.start, done


def rules_of(settings: NameSettings, load: Callable[[NameSettings], Analyze | None]) -> tuple[NameRule, ...]:
    """A rule for each entity that is looked for."""
    analyze = load(settings)
    analysis = None if analyze is None else Analysis(settings, analyze)
    return tuple(NameRule(entity, analysis) for entity in settings.entities)


def load_presidio(settings: NameSettings) -> Analyze | None:
    """Presidio with its model; None when either is not on this machine. Takes seconds and hundreds of megabytes."""
    try:
        spacy_util = cast(Any, import_module("spacy.util"))
        analyzer = cast(Any, import_module("presidio_analyzer"))
        engines = cast(Any, import_module("presidio_analyzer.nlp_engine"))
    except ImportError:
        return None
    if not (spacy_util.is_package(settings.model) or Path(settings.model, "config.cfg").is_file()):
        return None
    models: list[Mapping[str, str]] = [{"lang_code": settings.language, "model_name": settings.model}]
    provider = engines.NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models})
    engine = analyzer.AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=[settings.language])
    return cast(Analyze, engine.analyze)
