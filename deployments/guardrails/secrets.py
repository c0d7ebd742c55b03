r"""Secrets: tokens with a shape of their own, and values that stand where passwords do.

The rules are those of bounded length (`rules.py`), so that they can look at a stream. A value without a shape counts
only behind a name that says what it is, and only when it does not look like a word, a name of code or a placeholder.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from deployments.guardrails.rules import BEFORE, Pattern
from deployments.guardrails.segments import PEM_BEGIN, PEM_CHARS, keys_of
from deployments.guardrails.values import Detector, Rule

_BASE64_LINES: Final = re.compile(r"(?:(?:\\[nr]|[ \t\r\n]){0,4}[0-9A-Za-z+/=]{16,80}){1,90}")


class PrivateKey:
    """PEM blocks of private keys, line ends escaped or not; also the begin of one that is cut. A `values.Rule`."""

    detector = Detector.SECRETS
    kind = "private_key"

    def find(self, text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Where one stands in `text[begin:end]`."""
        if text.find("-----BEGIN ", begin, end) < 0:
            return
        part = text[:end]
        whole = dict(keys_of(part, begin, whole=True))
        done = begin
        for match in PEM_BEGIN.finditer(part, begin):
            if match.start() < done:
                continue
            close = whole.get(match.start())
            if close is None:  # cut off, or only spoken of: then nothing like a key follows
                lines = _BASE64_LINES.match(part, match.end(), min(end, match.start() + PEM_CHARS))
                close = None if lines is None else lines.end()
            if close is not None:
                yield match.start(), close
                done = close


def _mixed(text: str) -> bool:
    """Digits and letters: no word."""
    return any(map(str.isdigit, text)) and any(map(str.isalpha, text))


def entropy(text: str) -> float:
    """Shannon entropy of a text's own letters, in bits for each."""
    counts = Counter(text)
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts.values())


_PLACEHOLDER: Final = re.compile(
    r"example|change.?me|your|placeholder|redacted|dummy|x{4}|\*{3}|\.{3}|<|\$|\{\{|%\(|\["
)
_NAME_OF_CODE: Final = re.compile(r"[A-Za-z_]\w*(?:(?:\.|::|->|/|-)[A-Za-z_]\w*)*", re.ASCII)
_CODE_WORDS: Final = re.compile(r"[a-z]+(?:[._/-](?:[a-z]+|v?[0-9]{1,2}))*|[A-Z]+(?:_(?:[A-Z]+|[0-9]{1,2}))*")


def looks_secret(value: str, quoted: bool) -> bool:
    """Whether a value behind a telling name is a secret: not a word, a name, a path or a placeholder.

    Without quotes it must hold a digit, because names of code stand without them.
    """
    digit = any(map(str.isdigit, value))
    if not digit and not quoted:
        return False
    if "://" in value or value.startswith(("/", "./", "~/")) or _PLACEHOLDER.search(value.lower()) is not None:
        return False
    if not quoted:
        plain = _NAME_OF_CODE.fullmatch(value) is not None and ("." in value or "::" in value or not _mixed(value))
        return not plain and not value.isdigit() and entropy(value) >= 2.5
    if _CODE_WORDS.fullmatch(value) is not None:
        return False
    kinds = sum((digit, value.lower() != value, value.upper() != value, not value.isalnum()))
    return kinds >= 2 and entropy(value) >= (2.5 if digit else 3.0)


_HINTS: Final = {
    "password": None, "passwd": None, "passwort": None, "passphrase": None, "pwd": None, "secret": None, "token": None,
    "credential": None,
    "key": re.compile(r"(?:api|access|account|auth|secret|private|encryption|signing|client)[_-]?\Z"),
}  # fmt: skip
"""What a telling name ends with, and what must stand before it."""

_BEFORE_CHARS: Final = 11
_FOLD: Final = {ord(each): each.lower() for each in string.ascii_uppercase}


def _folded(text: str) -> str:
    """The text with its ASCII letters small, and as long as it was."""
    lower = text.lower()
    return lower if len(lower) == len(text) else text.translate(_FOLD)


_QUOTE: Final = r"\\{0,3}[\"'`]"
_VALUE: Final = (
    r"[0-9]{0,3}(?:" + _QUOTE + r")?\]?(?![0-9A-Za-z])[ \t]{0,3}(?::=|=>|!=|={1,3}|:)[ \t]{0,3}"
    r"(?:[@bfru]{0,2}" + _QUOTE + r"(?P<quoted>[!#-&(-;=?-\[\]-_a-~]{8,256})(?=" + _QUOTE + r")"
    r"|(?P<bare>[!#%*+./0-9:=?-Z^_a-z~-]{8,256}+)(?![0-9A-Za-z(]))"
)
_ASSIGNED: Final = re.compile(_VALUE)
_FLAGGED: Final = re.compile(
    r"[= ][\"']?(?P<bare>[!#%*+./0-9:=?-Z^_a-z~][!#%*+./0-9:=?-Z^_a-z~-]{7,255}+)(?![0-9A-Za-z(])"
)


class Credential:
    """Values behind names like `password`: in code, JSON, YAML, environments, flags. Implements `values.Rule`."""

    detector = Detector.SECRETS
    kind = "credential"

    def find(self, text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Where one stands in `text[begin:end]`; of the value alone."""
        part = _folded(text[begin:end])
        done = begin
        for at, name_end in sorted(self._names(part)):
            match = _ASSIGNED.match(text, begin + name_end, end)
            if match is None and self._is_flag(text, begin + at):
                match = _FLAGGED.match(text, begin + name_end, end)
            if match is None or match.lastgroup is None:
                continue
            start, stop = match.span(match.lastgroup)
            if start >= done and looks_secret(text[start:stop], match.lastgroup == "quoted"):
                yield start, stop
                done = stop

    def _names(self, part: str) -> Iterator[tuple[int, int]]:
        """Where telling names stand in a folded text."""
        for hint, before in _HINTS.items():
            at = part.find(hint)
            while at >= 0:
                if before is None or before.search(part, max(0, at - _BEFORE_CHARS), at) is not None:
                    yield at, at + len(hint)
                at = part.find(hint, at + len(hint))

    def _is_flag(self, text: str, at: int) -> bool:
        """Whether a name is (the end of) an option of a command: `--db-password`."""
        head = text[max(0, at - 40) : at]
        return re.search(r"(?:^|[^-0-9A-Za-z])--(?:[0-9a-z]{1,12}-){0,3}\Z", head) is not None


def telling(name: str) -> bool:
    """Whether a name, as that of a field, says that its value is a secret."""
    part = _folded(name)
    return any(
        part.endswith(hint) and (before is None or before.search(part, 0, len(part) - len(hint)) is not None)
        for hint, before in _HINTS.items()
    )


def _pattern(kind: str, pattern: str, *needs: str, holds: Callable[[str], bool] | None = None) -> Pattern:
    return Pattern(Detector.SECRETS, kind, re.compile(pattern, re.ASCII), needs, holds)


_WORD: Final = r"[0-9A-Za-z_-]"
RULES: Final[tuple[Rule, ...]] = (
    PrivateKey(),
    _pattern(
        "jwt", BEFORE + r"eyJ" + _WORD + r"{10,1024}\." + _WORD + r"{4,5000}\." + _WORD + r"{0,2000}(?![0-9A-Za-z_.-])",
        "eyJ",
    ),
    _pattern("aws_key", BEFORE + r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])",
             "A3T", "ABIA", "ACCA", "AKIA", "ASIA"),
    _pattern("google_key", BEFORE + r"(?:AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20,1024}|"
             r"GOCSPX-[0-9A-Za-z_-]{24,64})",
             "AIza", "ya29.", "GOCSPX-"),
    _pattern("azure_key", r"(?:AccountKey|SharedAccessKey)=(?P<it>[0-9A-Za-z+/]{40,128}={0,2})",
             "AccountKey=", "SharedAccessKey="),
    _pattern("github_token", BEFORE + r"(?:gh[opsru]_[0-9A-Za-z]{36,255}|github_pat_[0-9A-Za-z_]{22,255})",
             "ghp_", "gho_", "ghs_", "ghr_", "ghu_", "github_pat_"),
    _pattern("gitlab_token", BEFORE + r"gl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas|ffct)-[0-9A-Za-z_.-]{20,300}",
             "glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "glcbt-", "glimt-", "glptt-", "glagent-", "gloas-",
             "glffct-"),
    _pattern("slack_token", BEFORE + r"(?:xox[a-z]-[0-9A-Za-z-]{10,250}|xapp-[0-9]-[0-9A-Za-z-]{10,250})",
             "xox", "xapp-"),
    _pattern("slack_token", r"hooks\.slack\.com/(?:services|workflows|triggers)/(?P<it>[0-9A-Za-z/_-]{20,200})",
             "hooks.slack.com"),
    _pattern("stripe_key", BEFORE + r"(?:[rs]k_(?:live|test)_[0-9A-Za-z]{16,255}|whsec_[0-9A-Za-z+/=]{24,255})",
             "k_live_", "k_test_", "whsec_"),
    # OpenAI, Anthropic, OpenRouter and many that imitate them
    _pattern("api_key", BEFORE + r"sk-[0-9A-Za-z_-]{20,255}", "sk-", holds=_mixed),
    _pattern("gatehouse_key", BEFORE + r"gh-[0-9A-Za-z]{40}(?![0-9A-Za-z])", "gh-"),
    _pattern("package_token", BEFORE + r"(?:npm_[0-9A-Za-z]{36}|pypi-[0-9A-Za-z_-]{50,512}|"
             r"dckr_(?:pat|oat)_[0-9A-Za-z_-]{27,64})",
             "npm_", "pypi-", "dckr_"),
    _pattern("huggingface_token", BEFORE + r"hf_[0-9A-Za-z]{30,64}(?![0-9A-Za-z_])", "hf_"),
    _pattern("sendgrid_key", BEFORE + r"SG\.[0-9A-Za-z_-]{16,32}\.[0-9A-Za-z_-]{16,64}", "SG."),
    _pattern("vault_token", BEFORE + r"hv[sbr]\.[0-9A-Za-z_-]{20,255}", "hvs.", "hvb.", "hvr."),
    _pattern("age_key", r"AGE-SECRET-KEY-1[0-9A-Z]{50,80}", "AGE-SECRET-KEY-"),
    _pattern("url_password", r"://[!$-&(-+.0-9;=A-Z_a-z~-]{0,128}:"
             r"(?P<it>[!$-&(-+.0-9:;=A-\[\]-_a-~-]{3,256})@(?=[0-9A-Za-z\[])", "://",
             holds=lambda text: _PLACEHOLDER.search(text.lower()) is None),
    _pattern("authorization", r"(?:earer|EARER|asic|ASIC) (?P<it>[0-9A-Za-z._~+/=-]{16,5000})(?![0-9A-Za-z])",
             "earer ", "EARER ", "asic ", "ASIC ", holds=_mixed),
    Credential(),
)  # fmt: skip
KINDS: Final = tuple(dict.fromkeys(rule.kind for rule in RULES))
