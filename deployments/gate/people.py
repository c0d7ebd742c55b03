"""When two names mean one person. Two spellings must not make two people, or one person could approve twice.

A person is a name that an administrator has written into a key. Names are compared folded: compatibility forms, case,
marks and white space do not count, and letters of other scripts that look like Latin ones count as those. ASCII is
taken as it is written: `ian` and `lan` are two people. Where the equality is wrong, it costs a second approver; where
a difference is, somebody approves twice. So doubt makes one person of two.
"""

import unicodedata

_LOOK_ALIKE = {"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "DESERET", "OSAGE"}
"""Scripts whose letters pass for each other's. A name in more than one of them is somebody posing as somebody else."""

# Folded letters of other scripts by the Latin one that they, or their capitals, look like. They are written as code
# points, because in print they cannot be told apart.
_PASSES_FOR = {
    "a": "\u0430\u03b1",  # Cyrillic, Greek
    "b": "\u0432\u044c\u03b2",
    "c": "\u0441\u03f2",
    "d": "\u0501",
    "e": "\u0435\u0454\u03b5",
    "g": "\u0581\u050d",  # Armenian
    "h": "\u043d\u04bb\u0570",
    "i": "\u0456\u03b9\u0131",
    "j": "\u0458\u03f3",
    "k": "\u043a\u03ba",
    "l": "\u04cf",
    "m": "\u043c\u03bc",
    "n": "\u043f\u03b7\u0578\u057c",
    "o": "\u043e\u03bf\u03c3\u0585",
    "p": "\u0440\u03c1",
    "q": "\u051b\u0566",
    "r": "\u0433",
    "s": "\u0455",
    "t": "\u0442\u03c4",
    "u": "\u057d\u03c5",
    "v": "\u0475\u03bd",
    "w": "\u0461\u051d\u03c9\u0561",
    "x": "\u0445\u03c7",
    "y": "\u0443\u04af\u03b3",
    "z": "\u03b6",
}
_LATIN = {ord(char): latin for latin, chars in _PASSES_FOR.items() for char in chars}


def folded(name: str | None) -> str | None:
    """The name as it is recorded, in its one spelling; None where there is none."""
    text = unicodedata.normalize("NFKC", name or "").casefold()
    return " ".join(unicodedata.normalize("NFKC", text).split()) or None


def same_person(one: str | None, other: str | None) -> bool:
    """True when both names mean the same person. Nobody is the same as no one."""
    here, there = outline(one), outline(other)
    return here is not None and here == there


def outline(name: str | None) -> str | None:
    """What a name looks like: equal for all names of one person. For comparing, not for showing."""
    text = folded(name)
    if text is None:
        return None
    plain = "".join(char for char in unicodedata.normalize("NFKD", text) if _is_seen(char))
    return " ".join(plain.casefold().translate(_LATIN).split()) or None


def doubtful(name: str) -> str | None:
    """Why a name may not stand for a person who decides, or None: it must be readable for what it is."""
    if outline(name) is None:
        return "a person's name needs letters"
    if any(unicodedata.category(char) in {"Cc", "Cf", "Cn", "Co", "Cs"} for char in name):
        return "a person's name may hold no invisible characters"
    # By its names, Unicode says of every letter which script it is of: "CYRILLIC SMALL LETTER A".
    scripts = {unicodedata.name(char, "").split(" ")[0] for char in name if char.isalpha()}
    if len(scripts & _LOOK_ALIKE) > 1:
        return "a person's name may not mix scripts whose letters look alike"
    return None


def _is_seen(char: str) -> bool:
    return unicodedata.category(char) not in {"Mn", "Me", "Mc", "Cc", "Cf", "Cn", "Co", "Cs"}
