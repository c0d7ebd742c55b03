"""Whose guardrails are which: settings, kinds, what is remembered, the optional library."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.guardrails import names
from deployments.guardrails.guard import RULES, Guardrails
from deployments.guardrails.settings import GuardrailSettings, NameSettings
from deployments.guardrails.values import Detector, GuardrailUnavailable
from tests.unit.guardrails.samples import LOREM

MAIL = "bob@corp.example"
MASK = {"pii": {"input": "mask", "output": "mask"}}


def guardrails(load: Any = None, **tenants: Any) -> Guardrails:
    settings = GuardrailSettings.model_validate({"tenants": tenants})
    return Guardrails(settings, load_names=load or (lambda _: None))


def never() -> bool:
    return False


def test_without_settings_nobody_has_guardrails() -> None:
    nobody = Guardrails(GuardrailSettings())
    assert nobody.of("acme") is None
    assert guardrails(acme=MASK).of("other") is None


def test_a_tenant_has_its_own_or_the_default() -> None:
    settings = GuardrailSettings.model_validate({"default": MASK, "tenants": {"calm": {}}})
    both = Guardrails(settings)
    assert both.of("calm") is None
    assert both.of("acme") is both.of("acme")
    assert both.of("acme") is not both.of("other")


def test_directions_are_apart() -> None:
    guard = guardrails(acme={"pii": {"output": "mask"}}).of("acme")
    assert guard is not None
    assert guard.look_in(never).screen(MAIL).text == MAIL
    look = guard.look_out()
    assert look is not None
    assert look.screen(MAIL).text == "[EMAIL]"


def test_kinds_that_are_not_wanted_are_not_looked_for() -> None:
    guard = guardrails(acme={"pii": {"input": "mask", "kinds": ["card"]}}).of("acme")
    assert guard is not None
    assert guard.look_in(never).screen(f"{MAIL} 4111111111111111").text == f"{MAIL} [CARD]"


def test_a_text_that_was_looked_at_is_remembered_by_its_digest_alone() -> None:
    guard = guardrails(acme=MASK).of("acme")
    assert guard is not None
    text = f"{LOREM * 4} {MAIL}"
    first, second = guard.look_in(never), guard.look_in(lambda: True)
    assert first.screen(text) == second.screen(text)  # the second one has no time: it is not looked at again
    assert second.tally.found == first.tally.found
    assert not second.tally.failures
    assert MAIL not in repr(guard.known)
    assert len(guard.known) == 1


def test_what_was_not_looked_at_by_all_is_not_remembered() -> None:
    guard = guardrails(acme=MASK).of("acme")
    assert guard is not None
    assert guard.look_in(lambda: True).screen(LOREM * 4 + MAIL).text == LOREM * 4 + MAIL
    assert not guard.known


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"pii": {"output": "keep_local"}}, "kept local"),
        ({"secrets": {"output": "keep_local"}}, "kept local"),
        ({"injection": {"input": "mask"}}, "cannot be masked"),
        ({"pii": {"input": "mask", "kinds": ["email", "shoe_size"]}}, "unknown: shoe_size"),
        ({"secrets": {"kinds": ["email"]}}, "unknown: email"),
        ({"required": True}, "needs a detector"),
        ({"pii": {"input": "hide"}}, "hide|Input should be"),
        ({"pii": {"inptu": "mask"}}, "Extra inputs"),
        ({"names": {"input": "mask", "entities": []}}, "at least 1"),
        ({"budget_ms": 0}, "greater than or equal to 10"),
    ],
)
def test_settings_that_make_no_sense_are_refused(profile: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        GuardrailSettings.model_validate({"default": profile})


@dataclass
class Found:
    entity_type: str
    start: int
    end: int
    score: float


class Library:
    """Stands for Presidio: knows one person and one town."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def load(self, settings: NameSettings) -> names.Analyze:
        del settings
        return self

    def __call__(self, *, text: str, language: str, entities: list[str]) -> Sequence[Found]:
        assert language == "en"
        self.texts.append(text)
        known = [("PERSON", "Ada Lovelace", 0.85), ("LOCATION", "London", 0.9), ("PERSON", "May", 0.3)]
        return [
            Found(kind, text.index(name), text.index(name) + len(name), score)
            for kind, name, score in known
            if name in text and kind in entities
        ]


NAMES = {"required": True, "names": {"input": "mask"}}


def test_names_are_the_librarys() -> None:
    library = Library()
    guard = guardrails(library.load, acme=NAMES).of("acme")
    assert guard is not None
    how = guard.look_in(never)
    assert how.screen("London, in May: Ada Lovelace").text == "[LOCATION], in May: [PERSON]"
    assert [str(each) for each in how.tally.found] == ["names.location:mask=1", "names.person:mask=1"]
    assert len(library.texts) == 1  # both entities at once


def test_a_long_text_is_given_to_the_library_in_parts() -> None:
    library = Library()
    guard = guardrails(library.load, acme=NAMES).of("acme")
    assert guard is not None
    text = "x" * 120_000 + " London"
    assert guard.look_in(never).screen(text).text.endswith("x [LOCATION]")
    assert max(map(len, library.texts)) <= 50_000


def test_a_library_that_is_missing_refuses_or_is_told() -> None:
    strict = guardrails(acme=NAMES).of("acme")
    assert strict is not None
    with pytest.raises(GuardrailUnavailable):
        strict.look_in(never).screen("Ada")
    mild = guardrails(acme={"names": {"input": "mask"}, **MASK}).of("acme")
    assert mild is not None
    how = mild.look_in(never)
    assert how.screen(f"Ada {MAIL}").text == "Ada [EMAIL]"
    assert how.tally.failures == {Detector.NAMES: "missing"}


def test_a_model_that_is_not_here_is_not_fetched() -> None:
    assert names.load_presidio(NameSettings(model="no_such_model_anywhere")) is None


def test_the_library_is_loaded_once_for_one_setup() -> None:
    loaded: list[NameSettings] = []
    library = Library()

    def load(settings: NameSettings) -> names.Analyze:
        loaded.append(settings)
        return library

    guardrails(load, acme=NAMES, beta={"names": {"input": "tag"}}, gamma=MASK)
    assert len(loaded) == 1


def test_every_rule_belongs_to_a_detector_that_settings_know() -> None:
    assert {rule.detector for rule in RULES} == {Detector.PII, Detector.SECRETS}
