"""Personal data with a shape of its own: addresses, numbers of accounts and cards, numbers that states give people.

What has no shape (names, places) is the optional library's: `names.py`. Numbers without a check digit count only in the
spelling that people give them, because code and logs are full of digits.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

from deployments.guardrails import checksums
from deployments.guardrails.rules import AFTER, Pattern, digits_of, word
from deployments.guardrails.segments import WIDE
from deployments.guardrails.values import Detector, Rule

_DOMAIN: Final = re.compile(r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![0-9A-Za-z_-])")
_LOCAL: Final = frozenset("._%+'-")
_LOCAL_CHARS: Final = 64
_NO_PEOPLE: Final = frozenset({"git", "hg", "svn"})  # of addresses of repositories: git@github.com


class Email:
    """Addresses of e-mail. Implements `values.Rule`. Looks around each `@`: a search for what stands before is slow."""

    detector = Detector.PII
    kind = "email"

    def find(self, text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Where one stands in `text[begin:end]`."""
        done = begin
        at = text.find("@", begin, end)
        while at >= 0:
            match = _DOMAIN.match(text, at, end)
            start = self._start(text, at, done)
            if match is not None and start < at and text[start:at] not in _NO_PEOPLE:
                yield start, match.end()
                done = match.end()
            at = text.find("@", at + 1, end)

    def _start(self, text: str, at: int, begin: int) -> int:
        """Where the local part begins; `at` when there is none."""
        start, least = at, max(begin, at - _LOCAL_CHARS)
        while start > least and (text[start - 1] in _LOCAL or text[start - 1].isalnum()) and text[start - 1] < WIDE:
            start -= 1
        while start < at and text[start] in _LOCAL:
            start += 1
        return start


_AFTER_CARD: Final = AFTER + r"(?![.-][0-9A-Za-z])"
_FOUR: Final = r"[0-9]{4}"
_CARD: Final = word(
    "[2-6]",
    r"(?<![0-9]\.[2-6])(?:(?<=[2-6])[0-9]{3}(?P<a>[ -]?)" + rf"{_FOUR}(?P=a){_FOUR}(?P=a){_FOUR}{_AFTER_CARD}"
    + r"|(?<=3)[47][0-9]{2}(?P<b>[ -]?)[0-9]{6}(?P=b)[0-9]{5}" + _AFTER_CARD
    + r"|(?<=3)[068][0-9]{2}(?P<c>[ -]?)[0-9]{6}(?P=c)[0-9]{4}" + _AFTER_CARD
    + r"|(?<=6)2[0-9]{17}" + _AFTER_CARD + ")",
)  # fmt: skip
_IBAN: Final = word("[A-Z]", r"[A-Z][0-9]{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?" + AFTER)
_PHONE: Final = (
    r"[+(2-9](?<![0-9A-Za-z_+][+(2-9])(?:"
    r"(?<=\+)[1-9][0-9]{0,2}[ ./-]?(?:\([0-9]{1,5}\)[ ./-]?)?[0-9]{1,5}(?:[ ./-][0-9]{1,8}){1,5}"  # in groups
    r"|(?<=\+)(?<!\n\+)[1-9][0-9]{9,12}"  # in one piece; at the begin of a line it is the number of a diff
    r"|(?<=\()[2-9][0-9]{2}\) ?[2-9][0-9]{2}-[0-9]{4}|(?<=[2-9])[0-9]{2}-[2-9][0-9]{2}-[0-9]{4}"  # North America
    r")(?![0-9A-Za-z_]|-[0-9])"
)
_SSN: Final = r"[0-8](?<![0-9A-Za-z_-][0-8])[0-9]{2}-[0-9]{2}-[0-9]{4}(?![0-9A-Za-z_]|-[0-9])"
_NINO: Final = word(
    "[A-Z]",
    r"(?<=[A-CEGHJ-PR-TW-Z])(?<!O)(?!(?<=B)G|(?<=G)B|(?<=K)N|(?<=N)[KT]|(?<=T)N|(?<=Z)Z)[A-CEGHJ-NPR-TW-Z](?P<s> ?)"
    r"[0-9]{2}(?P=s)[0-9]{2}(?P=s)[0-9]{2}(?P=s)[A-D]" + AFTER,
)
_TAX_ID: Final = word(
    "[1-9]", r"(?<![0-9]\.[1-9])[0-9](?P<s> ?)[0-9]{3}(?P=s)[0-9]{3}(?P=s)[0-9]{3}" + AFTER + r"(?!\.[0-9])"
)
_NIR: Final = word(
    "[12]", r"(?P<s> ?)[0-9]{2}(?P=s)[0-9]{2}(?P=s)[0-9]{2}(?P=s)[0-9]{3}(?P=s)[0-9]{3}(?P=s)[0-9]{2}" + AFTER
)
_CPF: Final = r"[0-9](?<![0-9A-Za-z_.][0-9])[0-9]{2}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}" + AFTER
_FISCAL: Final = word("[A-Z]", r"[A-Z]{5}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]" + AFTER)
_DNI: Final = word("[0-9XYZ]", r"[0-9]{7}[A-HJ-NP-TV-Z]" + AFTER)


def _phone(text: str) -> bool:
    """The digits of a telephone number (E.164 has at most 15)."""
    return (10 if "+" not in text else 8) <= len(digits_of(text)) <= 15


def _checked(check: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda text: check(digits_of(text))


def _pattern(kind: str, pattern: str, holds: Callable[[str], bool] | None, *needs: str) -> Pattern:
    return Pattern(Detector.PII, kind, re.compile(pattern, re.ASCII), needs, holds)


RULES: Final[tuple[Rule, ...]] = (
    Email(),
    _pattern("phone", _PHONE, _phone, "+", "-"),
    _pattern("card", _CARD, _checked(checksums.is_card)),
    _pattern("iban", _IBAN, _checked(checksums.is_iban)),
    _pattern("us_ssn", _SSN, _checked(checksums.is_us_ssn), "-"),
    _pattern("uk_nino", _NINO, None),
    _pattern("de_tax_id", _TAX_ID, _checked(checksums.is_de_tax_id)),
    _pattern("fr_nir", _NIR, _checked(checksums.is_fr_nir)),
    _pattern("es_dni", _DNI, checksums.is_es_dni),
    _pattern("it_fiscal_code", _FISCAL, checksums.is_it_fiscal_code),
    _pattern("br_cpf", _CPF, _checked(checksums.is_br_cpf), "-"),
)
KINDS: Final = tuple(rule.kind for rule in RULES)
