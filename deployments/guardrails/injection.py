"""Orders in other people's text: results of tools, documents. A heuristic, so first of all a signal. Pure.

It reads what such text says to a model, in English, German, French and Spanish, and what it hides from people. A text
about prompt injection looks like one. Nothing here is proof, and what is not found is not harmless.
"""

import re
from dataclasses import dataclass
from typing import Final

ENOUGH: Final = 1.0
"""Weight from which on a text counts as an attempt."""


@dataclass(frozen=True, slots=True)
class _Sign:
    kind: str
    weight: float
    pattern: re.Pattern[str]
    needs: tuple[str, ...] = ()


def _sign(kind: str, weight: float, pattern: str, *needs: str) -> _Sign:
    return _Sign(kind, weight, re.compile(pattern), needs)


_BEFORE: Final = r"(?:previous|prior|above|earlier|preceding|foregoing|existing|original|system)"
_ORDERS: Final = r"(?:instructions?|prompts?|rules?|directions?|guidelines?|orders?|messages?|context)"
_SOME: Final = r"(?:\w{1,12}\W{1,3}){0,4}"  # words between two that tell
_FEW: Final = r"(?:\w{1,12}\W{1,3}){0,3}"
_SIGNS: Final = (
    _sign("override", 1.0, r"\b(?:ignore|disregard|forget|override|bypass)\W{1,3}" + _SOME + _BEFORE
          + r"\W{1,3}" + _FEW + _ORDERS + r"\b", "ignore", "disregard", "forget", "override", "bypass"),
    _sign("override", 1.0, r"\b(?:ignorier|vergiss|missachte)\w{0,4}\W{1,3}" + _SOME + "(?:anweisung|befehl|regel)",
          "ignorier", "vergiss", "missachte"),
    _sign("override", 1.0, r"\b(?:ignore[zr]?|oublie[zr]?)\W{1,3}" + _SOME + "(?:instructions|consignes|règles)",
          "ignore", "oublie"),
    _sign("override", 1.0, r"\b(?:ignora|olvida)\w{0,3}\W{1,3}" + _SOME + "(?:instrucciones|órdenes|reglas)",
          "ignora", "olvida"),
    _sign("override", 0.5, r"\b(?:new|updated|real|actual|important)\W{1,3}(?:system\W{1,3})?instructions?\W{0,3}:",
          "instruction"),
    _sign("override", 0.5, r"\b(?:you are now|from now on,? you|your new (?:task|role|goal|instructions?))\b",
          "you"),
    _sign("role_marker", 1.0, r"<\|(?:im_start|im_end|start_header_id|system|assistant|start|channel|message)\|>"
          r"|\[/?inst\]|<</?sys>>", "<|", "[inst]", "[/inst]", "<<sys", "<</sys"),
    _sign("role_marker", 0.5, r"(?:^|\n)\s{0,8}(?:#{1,4}\s{0,2})?(?:system|assistant|developer)\s{0,2}"
          r"(?:prompt|message)?\s{0,2}:",
          "system", "assistant", "developer"),
    _sign("role_marker", 0.5, r"</?(?:system|assistant|developer|instructions?)(?:[-_]\w{1,16})?>",
          "system", "assistant", "developer", "instruction"),
    _sign("concealment", 1.0, r"\b(?:do not|don't|never|without)\W{1,3}" + _FEW
          + r"(?:tell|telling|inform|informing|mention|mentioning|reveal|show|notify|alert)\w{0,4}\W{1,3}" + _FEW
          + r"(?:user|human|operator|developer)\b", "user", "human", "operator", "developer"),
    _sign("addressing", 0.5, r"\b(?:ai|llm|language model|assistant|coding agent|chatbot)s?\W{1,3}" + _SOME
          + r"(?:must|should|shall|needs? to|has to|have to|please|is required to)\b",
          "ai", "llm", "language model", "assistant", "coding agent", "chatbot"),
    _sign("exfiltration", 1.0, r"\b(?:send|post|upload|exfiltrate|forward|e?mail|leak|append|include|encode)\b"
          r"[^.\n]{0,80}\b(?:api.?keys?|passwords?|credentials?|secrets?|tokens?|\.env|ssh keys?|private keys?|"
          r"environment variables)\b"
          r"[^.\n]{0,80}(?:https?://|\bto \S{1,64}@|\bwebhook)", "http", "@", "webhook"),
    _sign("exfiltration", 0.5, r"!\[[^\]\n]{0,80}\]\(https?://[^)\s]{1,200}[?&][^)\s=]{1,40}=(?:\{|\$|<|%7b)", "!["),
    _sign("exfiltration", 0.5, r"\b(?:reveal|print|repeat|output|show)\b[^.\n]{0,40}\b(?:system prompt|"
          r"your instructions|initial prompt)", "prompt", "instructions"),
)  # fmt: skip
_HIDDEN: Final = re.compile("[\U000e0020-\U000e007e]{4}|[\u202a-\u202e\u2066-\u2069]|[\u200b\u2060\ufeff]{6}")
_PIECE: Final = 65_536
_OVERLAP: Final = 512


def attempts(text: str) -> tuple[str, ...]:
    """The kinds of signs in a text, when together they weigh enough; else nothing."""
    kinds: dict[str, float] = {}
    if not text.isascii() and _HIDDEN.search(text) is not None:
        kinds["hidden_text"] = ENOUGH
    for begin in range(0, len(text), _PIECE):
        part = text[max(0, begin - _OVERLAP) : begin + _PIECE].lower()
        for number, sign in enumerate(_SIGNS):
            known = kinds.get(f"{number}") is not None
            if known or (sign.needs and not any(each in part for each in sign.needs)):
                continue
            if sign.pattern.search(part) is not None:
                kinds[f"{number}"] = sign.weight
    if sum(kinds.values()) < ENOUGH:
        return ()
    return tuple(dict.fromkeys(_SIGNS[int(name)].kind if name.isdigit() else name for name in kinds))
