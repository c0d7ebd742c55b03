"""Python programs in a command line (`python3 -c TEXT`): does this one only read and print, and which files?

A proof by allowlist over the syntax tree: every node, name, attribute and import must be one that is listed in
`python_names`; what is not listed makes the program unknown. The checks do not follow the order of execution. They keep
one law instead: whatever object such a program may hold, calling it, or any attribute that it may name, with any other
such objects at worst prints. What opens files or lists them is no object here: it is called where its arguments show
which files, and these are returned, for the judgement of any file that is read.

Not proven: that the modules are those of the library. `python3 -c` looks for them in its working directory first.
"""

import ast
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deployments.gate.python_names import (
    ATTRIBUTES,
    BUILTINS,
    CAUGHT,
    DATE_FIELDS,
    GUARDED,
    LISTING,
    LOADERS,
    MODES,
    MODULES,
    NEVER,
    OPENING,
    PATHS,
    SPECIAL,
    TREE,
    TREES,
)
from deployments.gate.python_paths import Binding, Paths, Place, Places, constant
from deployments.gate.shell.atoms import Unprovable, check_characters

MAX_NODES = 4_000
MAX_SLEEP_S = 60
# `python3 - < FILE` obeys such a comment, and may then read another text than this one.
_COOKIE = re.compile(r"#.*coding[:=]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FIELD = re.compile(r"(?:[0-9]+|[A-Za-z][A-Za-z0-9_]*)?")
_SAME_MODULE = {"tomli": "tomllib"}
_STANDARD = frozenset({"sys.stdout", "sys.stderr"})
_PRINTERS = frozenset({"print", "str", "repr"})
_TEXT_OPTIONS = frozenset({"encoding", "errors", "newline"})
_NODES = (
    ast.Module, ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.While, ast.If, ast.With, ast.withitem,
    ast.Raise, ast.Try, ast.ExceptHandler, ast.Assert, ast.Import, ast.ImportFrom, ast.alias, ast.Pass, ast.Break,
    ast.Continue, ast.FunctionDef, ast.Return, ast.Delete, ast.Global, ast.Nonlocal, ast.arguments, ast.arg,
    ast.keyword, ast.BoolOp, ast.NamedExpr, ast.BinOp, ast.UnaryOp, ast.Lambda, ast.IfExp, ast.Dict, ast.Set,
    ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension, ast.Yield, ast.YieldFrom,
    ast.Compare, ast.Call, ast.FormattedValue, ast.JoinedStr, ast.Constant, ast.Attribute, ast.Subscript, ast.Starred,
    ast.Name, ast.List, ast.Tuple, ast.Slice, ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reads:
    """What a program that only reads and prints looks at.

    `places` are the files and directories that it reads or lists, sorted; `modules` what it imports, sorted.
    """

    places: tuple[Place, ...]
    modules: tuple[str, ...]


class _RefusedError(Exception):
    """The program may do more than read and print."""


def reads(text: str) -> Reads | None:
    """What the program `text` reads; None when it may do more than read and print, or cannot be parsed."""
    try:
        check_characters(text)
        if _COOKIE.search(text):
            return None
        return _Program.of(ast.parse(text)).checked()
    except (Unprovable, _RefusedError, SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None


def _require(fits: object) -> None:
    if not fits:
        raise _RefusedError


def _formats(text: str) -> bool:
    """True for a template of `str.format` without attributes or elements of what it formats."""
    for _, name, spec, _ in string.Formatter().parse(text):
        if name is not None and not _FIELD.fullmatch(name):
            return False
        if spec and "{" in spec and not _formats(spec):
            return False
    return True


@dataclass(slots=True)
class _Program:
    tree: ast.Module
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict[ast.AST, ast.AST])
    # What each imported name stands for: a module, or something in one.
    imports: dict[str, str] = field(default_factory=dict[str, str])
    modules: set[str] = field(default_factory=set[str])
    bindings: dict[str, list[Binding]] = field(default_factory=dict[str, list[Binding]])
    trees: set[str] = field(default_factory=set[str])
    places: set[Place] = field(default_factory=set[Place])
    paths: Paths = field(init=False)

    @classmethod
    def of(cls, tree: ast.Module) -> "_Program":
        """The program with its names found; raises when a name is bound that may not be."""
        found = cls(tree)
        nodes = list(ast.walk(tree))
        _require(len(nodes) <= MAX_NODES and all(isinstance(node, _NODES) for node in nodes))
        for node in nodes:
            for child in ast.iter_child_nodes(node):
                # Contexts and operators are shared between nodes; nobody asks for their parents.
                found.parents[child] = node
        for node in nodes:
            found._bind(node)
        _require(not found.imports.keys() & found.bindings.keys())
        found.paths = Paths(found.bindings, found._iterated(nodes), found._known)
        found.trees = {
            name
            for name, bound in found.bindings.items()
            if all(isinstance(b.source, ast.Call) and b.sole and found._known(b.source.func) == TREES for b in bound)
        }
        return found

    def checked(self) -> Reads:
        """Check every node; raises `_RefusedError` at the first that is not allowed."""
        for node in ast.walk(self.tree):
            check = _CHECKS.get(type(node))
            if check is not None:
                check(self, node)
        places = sorted(self.places, key=lambda place: (place.text, place.glob, place.home))
        return Reads(tuple(places), tuple(sorted(self.modules)))

    # --- names -------------------------------------------------------------------------------------------------------

    def _bind(self, node: ast.AST) -> None:
        match node:
            case ast.Import():
                for alias in node.names:
                    top = alias.name if alias.asname else alias.name.partition(".")[0]
                    self._import(alias.asname or top, alias.name, top)
            case ast.ImportFrom(module=str(module), level=0):
                _require(module in MODULES)
                for alias in node.names:
                    name = f"{module}.{alias.name}"
                    _require(name in MODULES or name in SPECIAL or alias.name in MODULES[module])
                    self._import(alias.asname or alias.name, module, name)
            case ast.ImportFrom():
                raise _RefusedError
            case ast.Name(ctx=ast.Store()):
                self._given(node.id, self._source(node))
            case ast.FunctionDef(name=name) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                self._given(name, Binding(None))
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                _require(all(map(_bindable, names)))
            case _:
                pass

    def _import(self, name: str, module: str, known: str) -> None:
        known = _SAME_MODULE.get(known, known)
        _require(module in MODULES and _bindable(name) and name not in BUILTINS)
        _require(self.imports.setdefault(name, known) == known)
        self.modules.add(module)

    def _given(self, name: str, binding: Binding) -> None:
        _require(_bindable(name))
        self.bindings.setdefault(name, []).append(binding)

    def _source(self, node: ast.Name) -> Binding:
        parent = self.parents[node]
        match parent:
            case ast.Assign(value=value) if node in parent.targets:
                return Binding(value, sole=len(parent.targets) == 1)
            case ast.AnnAssign(value=ast.expr() as value):
                return Binding(value, sole=True)
            case ast.NamedExpr(value=value):
                return Binding(value)
            case ast.For(iter=source) | ast.comprehension(iter=source):
                return Binding(source, each=True)
            case _:
                return Binding(None)

    def _iterated(self, nodes: Sequence[ast.AST]) -> frozenset[str]:
        """Names that nothing but loops takes values from: no list of such a name is changed."""
        used = {
            node.id
            for node in nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and not self._goes_through(node)
        }
        return frozenset(self.bindings.keys() - used)

    def _goes_through(self, node: ast.expr) -> bool:
        parent = self.parents[node]
        return isinstance(parent, ast.For | ast.comprehension) and parent.iter is node

    def _known(self, node: ast.expr) -> str | None:
        """What a name, or a chain of attributes, stands for by the imports: `json.load`. None: some object."""
        if isinstance(node, ast.Name):
            if node.id in NEVER or node.id in CAUGHT:
                return node.id
            return self.imports.get(node.id)
        if not isinstance(node, ast.Attribute):
            return None
        chain: list[str] = []
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            chain.append(base.attr)
            base = base.value
        known = self.imports.get(base.id) if isinstance(base, ast.Name) else None
        while chain and known is not None:
            if known not in MODULES:
                return None if known not in SPECIAL else f"{known}.{'.'.join(reversed(chain))}"
            known = f"{known}.{chain.pop()}"
        return known

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            return  # bound by `_bind`; `del` is looked at where it stands
        known = self._known(node)
        if known is not None:
            self._qualified(node, known)
            return
        _require(node.id in self.bindings or node.id in BUILTINS or node.id == "__name__")
        if node.id in self.trees:
            self._of_tree(node)

    def _attribute(self, node: ast.Attribute) -> None:
        _require(isinstance(node.ctx, ast.Load))
        known = self._known(node)
        if known is not None:
            self._qualified(node, known)
        elif node.attr == "__class__":
            parent = self.parents[node]
            _require(isinstance(parent, ast.Attribute) and parent.attr == "__name__")
        elif node.attr in GUARDED:
            self._guarded(node)
        else:
            _require(node.attr in ATTRIBUTES or node.attr == "__name__")

    def _qualified(self, node: ast.expr, known: str) -> None:
        """A name of a module, or in one: a module is no object, and neither is what opens files."""
        parent = self.parents[node]
        if known in MODULES:
            _require(isinstance(parent, ast.Attribute))
            return
        if known in SPECIAL or known in NEVER:
            self._special(node, known)
            return
        module, _, name = known.rpartition(".")
        _require(name in MODULES.get(module, ()))

    def _called(self, node: ast.expr) -> ast.Call:
        parent = self.parents[node]
        if not isinstance(parent, ast.Call) or parent.func is not node:
            raise _RefusedError
        return parent

    def _special(self, node: ast.expr, known: str) -> None:
        if known == "sys.path":
            self._search_path(node)
            return
        if known in CAUGHT:
            parent = self.parents[node]
            parent = self.parents[parent] if isinstance(parent, ast.Tuple) else parent
            _require(isinstance(parent, ast.ExceptHandler))
            return
        if known in LOADERS:
            parent = self.parents[node]
            call = self.parents[parent] if isinstance(parent, ast.keyword) else parent
            _require(isinstance(call, ast.Call) and self._known(call.func) == "yaml.load" and call.func is not node)
            return
        call = self._called(node)
        words = call.args
        plain = not any(isinstance(word, ast.Starred) for word in words)
        plain = plain and all(keyword.arg is not None for keyword in call.keywords)
        _require(plain)
        if known in OPENING:
            self._open(call, words)
        elif known in PATHS:
            _require(not call.keywords)
        elif known in LISTING:
            self._list(call, known)
        elif known in {"exit", "quit"}:
            _require(not call.keywords)
        elif known == "type":
            self._type(call)
        elif known == TREES:
            self._parse(call)
        elif known == "ast.parse":
            self._syntax(call)
        elif known == "yaml.load":
            named = [keyword.value for keyword in call.keywords if keyword.arg == "Loader"]
            _require(len(words) + len(call.keywords) == 2 and len(words) >= 1)
            _require(self._known((named or [words[-1]])[0]) in LOADERS)
        elif known == "time.sleep":
            seconds = constant(words[0]) if len(words) == 1 else None
            _require(isinstance(seconds, int | float) and 0 <= seconds <= MAX_SLEEP_S and not call.keywords)
        elif known == "importlib.util.find_spec":
            name = constant(words[0]) if len(words) == 1 else None
            _require(isinstance(name, str) and _NAME.fullmatch(name) and not call.keywords)
        else:
            raise _RefusedError

    def _search_path(self, node: ast.expr) -> None:
        """`sys.path` is printed, gone through or joined; what could change it does not get hold of it."""
        parent = self.parents[node]
        match parent:
            case ast.Call(func=ast.Name(id="print")) if node in parent.args and "print" not in self.bindings:
                return
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=str()), attr="join")):
                return
            case ast.Starred():
                self._special_star(parent, node)
            case ast.Subscript(ctx=ast.Load(), slice=ast.Constant()):
                return
            case _:
                _require(self._goes_through(node))

    def _special_star(self, star: ast.Starred, node: ast.expr) -> None:
        call = self.parents[star]
        prints = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"
        _require(prints and "print" not in self.bindings and star.value is node)

    def _type(self, call: ast.Call) -> None:
        """The type of an object is named, printed or compared: methods of a class are called with other arguments."""
        _require(len(call.args) == 1 and not call.keywords)
        parent = self.parents[call]
        match parent:
            case ast.Attribute(attr="__name__") | ast.Compare() | ast.FormattedValue():
                return
            case ast.Call(func=ast.Name(id=name)):
                _require(call in parent.args and name in _PRINTERS - self.bindings.keys())
            case _:
                raise _RefusedError

    # --- files -------------------------------------------------------------------------------------------------------

    def _reads(self, places: Places | None) -> None:
        if places is None:
            raise _RefusedError
        self.places |= places

    def _open(self, call: ast.Call, words: Sequence[ast.expr]) -> None:
        """`open(FILE, MODE)` and the like: `words` are its positional arguments, that of the file first."""
        _require(1 <= len(words) <= 2)
        modes = [constant(word) for word in words[1:]]
        for keyword in call.keywords:
            if keyword.arg == "mode":
                modes.append(constant(keyword.value))
            else:
                _require(keyword.arg in _TEXT_OPTIONS and isinstance(keyword.value, ast.Constant))
        _require(all(isinstance(mode, str) and mode in MODES for mode in modes))
        standard_input = constant(words[0])
        if type(standard_input) is int and standard_input == 0:
            return
        self._reads(self.paths.of(words[0]))

    def _list(self, call: ast.Call, known: str) -> None:
        words = call.args
        if known in {"glob.glob", "glob.iglob"}:
            self._reads(self.paths.listed(call))
            return
        _require(not call.keywords and len(words) <= 1)
        self._reads(self.paths.of(words[0]) if words else frozenset({Place(".")}))

    def _parse(self, call: ast.Call) -> None:
        """A tree of XML has a method that writes it: it is asked at once, or by a name that nothing else has."""
        _require(len(call.args) == 1 and not call.keywords)
        self._reads(self.paths.of(call.args[0]))
        parent = self.parents[call]
        if isinstance(parent, ast.Assign | ast.AnnAssign):
            target = parent.targets[0] if isinstance(parent, ast.Assign) else parent.target
            _require(isinstance(target, ast.Name) and target.id in self.trees)
        else:
            self._of_tree(call)

    def _syntax(self, call: ast.Call) -> None:
        """`ast.parse(TEXT, FILE)`: a fault of the text is shown with the line that the file of this name has there."""
        _require(1 <= len(call.args) <= 2 and all(option.arg in {"filename", "mode"} for option in call.keywords))
        for source in [*call.args[1:], *(option.value for option in call.keywords if option.arg == "filename")]:
            self._reads(self.paths.of(source))

    def _of_tree(self, node: ast.expr) -> None:
        parent = self.parents[node]
        _require(isinstance(parent, ast.Attribute) and parent.attr in TREE)
        self._called(parent)  # pyright: ignore[reportArgumentType]

    # --- methods that are something else on another object -----------------------------------------------------------

    def _guarded(self, node: ast.Attribute) -> None:
        if node.attr == "format":
            template = constant(node.value)
            _require(isinstance(template, str) and _formats(template))
            return
        call = self._called(node)
        words, options = call.args, {keyword.arg for keyword in call.keywords}
        _require(not any(isinstance(word, ast.Starred) for word in words) and None not in options)
        match node.attr:
            case "replace":  # of a path, with one argument, it renames the file
                text = len(words) in {2, 3} and options <= {"count"}
                _require(text or (not words and options and options <= DATE_FIELDS))
            case "copy" | "expanduser":  # of a path it writes the file that it is given
                _require(not words and not options)
            case "write" | "writelines":
                buffered = isinstance(node.value, ast.Attribute) and node.value.attr == "buffer"
                target = node.value.value if isinstance(node.value, ast.Attribute) and buffered else node.value
                _require(self._known(target) in _STANDARD)
            case "read":
                self._read(words, call.keywords)
            case "read_text" | "read_bytes":
                _require(len(words) <= 1 and all(isinstance(word, ast.Constant) for word in words))
                _require(options <= {"encoding", "errors"})
                self._reads(self.paths.of(node.value))
            case "open":
                self._open(call, [node.value, *words])
            case "glob" | "rglob" | "iterdir":
                self._reads(self.paths.listed(call))
                self._reads(self.paths.of(node.value))
            case _:
                raise _RefusedError

    def _read(self, words: Sequence[ast.expr], options: Sequence[ast.keyword]) -> None:
        """Of a file, a number of characters; of a `ConfigParser`, the file that it is given."""
        if not words or type(constant(words[0])) is int:
            _require(len(words) <= 1 and not options)
            return
        _require(len(words) == 1 and all(option.arg == "encoding" for option in options))
        self._reads(self.paths.of(words[0]))

    # --- statements --------------------------------------------------------------------------------------------------

    def _function(self, node: ast.FunctionDef) -> None:
        _require(not node.decorator_list)

    def _delete(self, node: ast.Delete) -> None:
        _require(all(isinstance(target, ast.Subscript) for target in node.targets))

    def _formatted(self, node: ast.FormattedValue) -> None:
        """Versions differ in how they read braces in the format of a value; names and numbers are read alike."""
        if not isinstance(node.format_spec, ast.JoinedStr):
            return
        for part in node.format_spec.values:
            text = constant(part)
            simple = isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name | ast.Constant)
            _require(simple or (isinstance(text, str) and not set(text) & set("{}\\")))


def _bindable(name: str) -> bool:
    """True for a name that a program may give a meaning to."""
    return _NAME.fullmatch(name) is not None and not name.startswith("__") and name not in NEVER | CAUGHT


_CHECKS: dict[type[ast.AST], Callable[..., None]] = {
    ast.Name: _Program._name,  # pyright: ignore[reportPrivateUsage]
    ast.Attribute: _Program._attribute,  # pyright: ignore[reportPrivateUsage]
    ast.FunctionDef: _Program._function,  # pyright: ignore[reportPrivateUsage]
    ast.Delete: _Program._delete,  # pyright: ignore[reportPrivateUsage]
    ast.FormattedValue: _Program._formatted,  # pyright: ignore[reportPrivateUsage]
}
