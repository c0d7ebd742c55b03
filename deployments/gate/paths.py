"""What a path may lead to: every name that it could have, and the registered targets of those names.

A path is text; what it leads to depends on where the command runs, on links, and on where the workspace lies. So one
path has several names here, and the worst target of them counts: `../../etc/shadow` is also `/etc/shadow`, a directory
is also what lies in it, `/home/ann` is also a home, and `/home/ann/.x` what lies in one.
"""

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from deployments.gate import globs
from deployments.gate.policy import Bundle
from deployments.gate.shell.atoms import Word
from deployments.gate.specs import Target
from deployments.gate.tables import Env, Sensitivity

HOME = "~"
MAX_DIRECTORIES = 8
UNREGISTERED = Target(env=Env.PROD, sensitivity=Sensitivity.SENSITIVE, note="not known before it runs")
_PERSONAL = re.compile(r"/(?:home|Users)/[^/]+")
_IN_PERSONAL = re.compile(r"/(?:home|Users)/[^/]+(?P<rest>/.+)", re.S)
_OUTSIDE = re.compile(r"(?:\.\./)*\.\.(?:/(?P<rest>.*))?", re.S)
# A name followed by `..`: if the name is a link, the way up starts from where it leads.
_THROUGH_A_NAME = re.compile(r"(?:^|/)(?!\.{1,2}/)[^/]+/+\.\.(?:/|$)")
_DIRECTORY_CHANGERS = frozenset({"cd", "pushd"})
_DIRECTORY_FLAGS = re.compile(r"-[LPen@]*|--")
_REMEMBERED_DIRECTORY = re.compile(r"~(?:-|\+[0-9]|-?[0-9])")


def normal_path(directory: str | None, text: str) -> str | None:
    """`text` seen from `directory`: absolute, `~` or `~/...`, `./...` inside the workspace, or `../...` out of it.

    None when that is not known: a relative path from an unknown directory, or a directory that the shell remembers.
    """
    if text.startswith("/"):
        return _tidy(text)
    if text.startswith(HOME):
        return _from_home(directory, text)
    if directory is None:
        return None
    joined = posixpath.join(directory, text)
    if joined.startswith(HOME):
        return _from_home(None, joined)
    joined = _tidy(joined)
    return joined if joined.startswith(("/", "../")) or joined in {".", ".."} else f"./{joined}"


def _from_home(directory: str | None, text: str) -> str | None:
    head, _, rest = text.partition("/")
    if _REMEMBERED_DIRECTORY.fullmatch(head):
        return None
    if head == "~+":
        return normal_path(directory, f"./{rest}")  # `~+//x` and `~+/~/x` lie in it as well
    if head == "~root":
        return _tidy(f"/root/{rest}")
    if head != HOME:
        return _tidy(f"/home/{head[1:]}/{rest}")
    inside = posixpath.normpath(rest.lstrip("/"))
    if inside == ".":
        return HOME
    return inside if inside == ".." or inside.startswith("../") else f"{HOME}/{inside}"


def _tidy(text: str) -> str:
    tidy = posixpath.normpath(text)
    # POSIX keeps two leading slashes; to every program here they are one.
    return tidy[1:] if tidy.startswith("//") else tidy


def names(place: str, text: str = "") -> tuple[str, ...]:
    """The names under which what lies at the normal path `place`, written as `text`, may be registered."""
    found = [place]
    outside = _OUTSIDE.fullmatch(place)
    if outside is not None:
        found.append(f"/{outside['rest'] or ''}")
    if _THROUGH_A_NAME.search(text):
        found.append(text)
        after = text.rpartition("../")[2].strip("/") if not text.rstrip("/").endswith("..") else ""
        found += [f"/{after}"] if after else []
    found += [HOME for name in found if _PERSONAL.fullmatch(name)]
    return tuple(dict.fromkeys(found))


def _known_as(place: str, text: str = "") -> tuple[str, ...]:
    """`names`, and what lies in somebody's home by the name that it has there."""
    found = names(place, text)
    homes = [inside["rest"] for name in found if (inside := _IN_PERSONAL.fullmatch(name)) is not None]
    return tuple(dict.fromkeys([*found, *(f"{HOME}{rest}" for rest in homes)]))


def targets(bundle: Bundle, word: Word, directories: Sequence[str | None], kind: str = "path") -> list[Target]:
    """Where a path may lead from any directory that it may begin in; None among them stands for any directory.

    Of the kind `path` what is not registered is production and sensitive; of another kind it has no say.
    """
    text = word.text
    missing = [UNREGISTERED] if kind == "path" else []
    if text is None:
        below = [Word(path, globs.is_glob(path)) for path in word.below]
        return [target for path in below for target in targets(bundle, path, directories, kind)] or missing
    if word.glob and ".." in text.split("/"):
        return missing
    found: list[Target] = []
    # `REVISION:PATH` and `HOST:PATH` name a path after the colon.
    for piece in [text, *text.split(":")[1:]]:
        for directory in directories:
            place = normal_path(directory, piece)
            if place is None:
                found += missing
            elif word.glob and globs.is_glob(place):
                hidden = kind == "path" and globs.is_hidden(place)
                found += missing if hidden else _covered(bundle, kind, place, missing)
            else:
                found += _exact(bundle, kind, _known_as(place, piece)) or missing
    return found


def directory_targets(bundle: Bundle, word: Word, directories: Sequence[str | None]) -> list[Target]:
    """The targets of a directory that is only gone to: what lies in it is judged where it is named."""
    if word.text is None or word.glob:
        return [UNREGISTERED]
    places = [normal_path(directory, word.text) for directory in directories]
    known = [None if place is None else bundle.target("path", place) for place in places]
    return [target or UNREGISTERED for target in known]


def web_targets(bundle: Bundle, path: str) -> list[Target]:
    """What the path of an address says by its name: `/api/v1/secrets`, `/.env`. It can only make it sensitive."""
    return _sensitive(_exact(bundle, "path", [f"./{path.partition('?')[0].strip('/')}"]))


def sensitive_targets(bundle: Bundle, word: Word, directories: Sequence[str | None]) -> list[Target]:
    """What a word that is perhaps a path leads to, where that is sensitive."""
    return _sensitive(targets(bundle, word, directories))


def chosen_targets(bundle: Bundle, word: Word, regex: bool = False) -> list[Target]:
    """What a pattern of file names (`grep --include`) picks. It can only make it sensitive; `!` leaves them out."""
    text = word.text
    if text is None:
        return [UNREGISTERED]
    if regex:
        pieces = [Word(piece) for piece in globs.of_regex(text)]
        return [target for piece in pieces for target in chosen_targets(bundle, piece)]
    if text.startswith("!"):
        return []
    place = f"./{re.sub(r'^(?:[.]?/)+', '', text)}"
    spelled = dict.fromkeys([place, place.lower()])  # `--iglob` takes either
    if not globs.is_glob(place):
        return _sensitive(_exact(bundle, "path", list(spelled)))
    if globs.is_hidden(place):
        return [UNREGISTERED]
    return _sensitive([target for each in spelled for target in _covered(bundle, "path", each, [])])


def _sensitive(found: Sequence[Target]) -> list[Target]:
    return [
        replace(target, workspace=False, env=None) for target in found if target.sensitivity is Sensitivity.SENSITIVE
    ]


def _exact(bundle: Bundle, kind: str, known_as: Sequence[str]) -> list[Target]:
    found = [target for name in known_as if (target := bundle.target(kind, name)) is not None]
    return found + [target for name in known_as for target in _inside(bundle, kind, name, fnmatchcase)]


def _covered(bundle: Bundle, kind: str, glob: str, missing: list[Target]) -> list[Target]:
    known_as = _known_as(glob)
    found = [target for name in known_as for target in bundle.targets_of_glob(kind, name)]
    return [*found, *(target for name in known_as for target in _inside(bundle, kind, name, globs.aims_at))] or missing


def _inside(bundle: Bundle, kind: str, name: str, fits: Callable[[str, str], bool]) -> list[Target]:
    """What is registered for all that lies in `name`: `/etc/kubernetes` is known by `/etc/kubernetes/*`."""
    return [
        target
        for patterns, target in bundle.entries(kind)
        if any(pattern.endswith("/*") and fits(name, pattern[:-2]) for pattern in patterns)
    ]


def followed(directories: Sequence[str | None], argv: Sequence[Word]) -> list[str | None]:
    """Where commands may run after `argv`, if it changes the directory; it may have failed, so the old places stay."""
    found = list(directories)
    if argv[0].text not in _DIRECTORY_CHANGERS:
        return found
    words = list(argv[1:])
    while words and words[0].text not in {None, "-"} and _DIRECTORY_FLAGS.fullmatch(words[0].text or "."):
        words.pop(0)
    for known in directories:
        # `pushd` alone goes back to a place that is known already.
        led: list[str | None] = [HOME] if not words and argv[0].text == "cd" else []
        for word in words:
            literal = word.text is not None and word.text != "-" and not word.glob
            led.append(normal_path(known, word.text or "") if literal else _root(found, word))
            led += [HOME] if word.loose else []
        found += [place for place in led if place not in found]
    return found if len(found) <= MAX_DIRECTORIES else [None]


def _root(directories: Sequence[str | None], word: Word) -> str | None:
    """`cd "$(git rev-parse --show-toplevel)"`: up to the root of the work, while all places are inside it."""
    inside = all(place is not None and not place.startswith(("/", "~", "..")) for place in directories)
    return "." if word.of == ("top",) and inside else None
