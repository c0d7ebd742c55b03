"""The files that an expression of a Python program may name, as far as its text alone says so.

Order of execution has no say: a name stands for what any of its bindings, anywhere in the program, gives it, and one
binding that is not understood makes the name unknown. So no path through the program is missed.
"""

import ast
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from deployments.gate import globs
from deployments.gate.python_names import PATHS

MAX_PLACES = 50
_MAX_DEPTH = 40
_MAX_STEPS = 3_000  # names that stand for two names each are work without end
_ORDERING = frozenset({"sorted", "list", "tuple", "set", "reversed"})
_SUFFIX = re.compile(r"\*(\.[A-Za-z0-9]+)")


@dataclass(frozen=True, slots=True)
class Place:
    """A file or directory that a program looks at: its name as in Python, or (`glob`) a pattern of names.

    `home`: the program expands the `~` that the name begins with.
    """

    text: str
    glob: bool = False
    home: bool = False

    @property
    def shown(self) -> str:
        """The name as a shell would have it written: a tilde only where it is a home directory."""
        return f"./{self.text}" if self.text.startswith("~") and not self.home else self.text


@dataclass(frozen=True, slots=True)
class Binding:
    """What a name is given: the value of `source`, or (`each`) the elements of it; None: anything.

    `sole`: no other name is given the same object at once, so that nothing else can change a list.
    """

    source: ast.expr | None
    each: bool = False
    sole: bool = False


Places: TypeAlias = frozenset[Place]
Qualified: TypeAlias = Callable[[ast.expr], str | None]


def constant(node: ast.AST | None) -> object:
    """The value of a literal; an ellipsis for everything else."""
    return node.value if isinstance(node, ast.Constant) else ...


def _joined(first: Places, second: Places, how: Callable[[str, str], str]) -> Places | None:
    """Every combination of two parts; None where they do not combine as text."""
    found: set[Place] = set()
    if len(first) * len(second) > MAX_PLACES:
        return None
    for left in first:
        for right in second:
            glob = left.glob or right.glob
            literal = [part.text for part in (left, right) if not part.glob]
            # In a pattern the wildcards of a literal part would no longer be letters.
            if right.home or (glob and any(globs.is_glob(text) for text in literal)):
                return None
            text = how(left.text, right.text)
            found.add(Place(text, glob, left.home and text.startswith(left.text)))
    return frozenset(found)


def _patterns(base: Places, pattern: str, hidden: bool) -> Places | None:
    """What a pattern finds below each of `base`; `hidden`: its wildcards match a leading dot, as in `pathlib`."""
    if "\\" in pattern or ".." in pattern.split("/") or not pattern:
        return None
    texts = {pattern, pattern.replace("**/", "")}
    for text in list(texts) if hidden else ():
        head, slash, last = text.rpartition("/")
        suffix = _SUFFIX.fullmatch(last)
        if suffix is not None:
            texts.add(f"{head}{slash}{suffix[1]}")
        elif last[:1] in {"*", "?", "["}:
            texts.add(f"{head}{slash}.{last}")
    found = frozenset(Place(text, globs.is_glob(text)) for text in texts)
    return _joined(base, found, posixpath.join)


def _union(parts: Iterable[Places | None]) -> Places | None:
    found: set[Place] = set()
    for part in parts:
        if part is None:
            return None
        found |= part
    return frozenset(found) if 0 < len(found) <= MAX_PLACES else None


@dataclass(slots=True)
class Paths:
    """The reader of such expressions.

    `bindings` are all bindings of each name, `iterated` the names that are only ever gone through by a loop,
    `qualified` names what an imported name or a chain of attributes stands for (`os.path.join`).
    """

    bindings: Mapping[str, list[Binding]]
    iterated: frozenset[str]
    qualified: Qualified
    steps: int = 0

    def _spent(self, depth: int) -> bool:
        self.steps += 1
        return depth > _MAX_DEPTH or self.steps > _MAX_STEPS

    def of(self, node: ast.expr, depth: int = 0) -> Places | None:
        """The files that `node` may name; None when that is not known."""
        if self._spent(depth):
            return None
        if isinstance(node, ast.Constant):
            if not isinstance(node.value, str) or "\0" in node.value:
                return None
            return frozenset({Place(node.value)})
        if isinstance(node, ast.Name):
            bound = self.bindings.get(node.id)
            if not bound:
                return None
            return _union(self._bound(binding, depth) for binding in bound)
        if isinstance(node, ast.BinOp):
            how = posixpath.join if isinstance(node.op, ast.Div) else str.__add__
            if not isinstance(node.op, ast.Add | ast.Div):
                return None
            return self._pair(self.of(node.left, depth + 1), self.of(node.right, depth + 1), how)
        if isinstance(node, ast.JoinedStr):
            return self._formatted(node, depth)
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        return None

    def each(self, node: ast.expr, depth: int = 0) -> Places | None:
        """The files that the elements of `node` may name."""
        if self._spent(depth):
            return None
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return _union(self.of(element, depth + 1) for element in node.elts)
        if isinstance(node, ast.Name):
            bound = self.bindings.get(node.id)
            if not bound or node.id not in self.iterated or not all(b.sole for b in bound):
                return None
            return _union(None if b.source is None else self.each(b.source, depth + 1) for b in bound)
        if not isinstance(node, ast.Call):
            return None
        if isinstance(node.func, ast.Name) and node.func.id in _ORDERING - self.bindings.keys():
            sole = len(node.args) == 1 and all(keyword.arg in {"key", "reverse"} for keyword in node.keywords)
            return self.each(node.args[0], depth + 1) if sole else None
        return self.listed(node, depth)

    def listed(self, node: ast.Call, depth: int = 0) -> Places | None:
        """What a call that lists files may name: `glob.glob(P)`, `os.listdir(D)`, `PATH.glob(P)`, `PATH.iterdir()`."""
        known = self.qualified(node.func)
        if known in {"glob.glob", "glob.iglob"}:
            pattern = constant(node.args[0]) if len(node.args) == 1 else None
            fits = all(keyword.arg == "recursive" for keyword in node.keywords) and isinstance(pattern, str)
            if not fits or str(pattern).startswith("~"):
                return None
            return _patterns(frozenset({Place("")}), str(pattern), hidden=False)
        if known == "os.listdir":
            return frozenset({Place("*", True), Place(".*", True)})
        if known is not None or not isinstance(node.func, ast.Attribute) or node.keywords:
            return None
        method = node.func.attr
        base = self.of(node.func.value, depth + 1) if method in {"glob", "rglob", "iterdir"} else None
        if base is None:
            return None
        if method == "iterdir":
            return None if node.args else _patterns(base, "*", hidden=True)
        pattern = constant(node.args[0]) if len(node.args) == 1 else None
        # `pathlib` refuses an absolute pattern.
        if not isinstance(pattern, str) or pattern.startswith(("/", "~")):
            return None
        return _patterns(base, f"**/{pattern}" if method == "rglob" else pattern, hidden=True)

    def _bound(self, binding: Binding, depth: int) -> Places | None:
        if binding.source is None:
            return None
        return self.each(binding.source, depth + 1) if binding.each else self.of(binding.source, depth + 1)

    @staticmethod
    def _pair(first: Places | None, second: Places | None, how: Callable[[str, str], str]) -> Places | None:
        return None if first is None or second is None else _joined(first, second, how)

    def _formatted(self, node: ast.JoinedStr, depth: int) -> Places | None:
        found: Places | None = frozenset({Place("")})
        for part in node.values:
            inner: ast.expr = part
            if isinstance(part, ast.FormattedValue):
                if part.conversion != -1 or part.format_spec is not None:
                    return None
                inner = part.value
            found = self._pair(found, self.of(inner, depth + 1), str.__add__)
        return found

    def _call(self, node: ast.Call, depth: int) -> Places | None:
        known = self.qualified(node.func)
        if known is None:
            expands = isinstance(node.func, ast.Attribute) and node.func.attr == "expanduser" and not node.args
            inner = node.func.value if isinstance(node.func, ast.Attribute) else node.func
            if not (expands and isinstance(inner, ast.Call) and self.qualified(inner.func) in PATHS):
                return None
            return self._expanded(inner, depth)
        if known == "os.path.expanduser":
            return self._expanded(node, depth)
        if node.keywords or any(isinstance(word, ast.Starred) for word in node.args):
            return None
        if known in PATHS and not node.args:
            return frozenset({Place(".")})
        if known == "os.path.join" or known in PATHS:
            found = self.of(node.args[0], depth + 1) if node.args else None
            for word in node.args[1:]:
                found = self._pair(found, self.of(word, depth + 1), posixpath.join)
            return found
        return None

    @staticmethod
    def _expanded(node: ast.Call, depth: int) -> Places | None:
        """`os.path.expanduser("~/x")`, `Path("~/x").expanduser()`: the literal, with its tilde."""
        text = constant(node.args[0]) if len(node.args) == 1 and not node.keywords and depth <= _MAX_DEPTH else None
        if not isinstance(text, str) or "\0" in text:
            return None
        return frozenset({Place(text, home=text.startswith("~"))})
