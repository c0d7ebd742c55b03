"""What a bundle says of tools: which adapter reads a call, what its arguments are, and examples that run at load.

Every argument has a role. Some roles are types, and harmless: `text`, `texts`, `number`, `flag`, `any`. The others say
what the value names, and are judged: `file` a path that is read, `written` one that is changed, `glob` a pattern of
file names, `url` an address, `command` a line of bash, besides the statements, word patterns and kinds of targets that
programs use as well. `file*` is one value or a list of them. An argument that has no role makes the call unknown.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, JsonValue

from deployments.gate.grammar import BundleError, Class, ClassOf, Strict, class_of
from deployments.gate.tables import Base

TYPES = frozenset({"text", "texts", "number", "flag", "any"})
JUDGED = frozenset({"file", "written", "glob", "url", "command", "web"})
_Names = Annotated[tuple[str, ...], Field(min_length=1)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_READS_ONLY = frozenset({"GET", "HEAD", "OPTIONS"})


class ToolExample(Strict):
    """A call and the class that it must have under `ops`. `tool`: which of the names, else the first.

    `covered` says whether the standing plan of `coding` covers it; `why` is for the reader.
    """

    arguments: dict[str, JsonValue]
    risk: Literal["R0", "R1", "R2", "R3", "FORBIDDEN"]
    tool: str | None = None
    covered: bool = False
    why: str = ""


class Raised(Strict):
    """An argument that makes a call more than it was, unless its value is one of `unless`."""

    unless: tuple[str | bool | int, ...] = ()
    class_: Class = Field(default="R2", alias="class")
    reason: str = Field(min_length=3)


class ToolBase(Strict):
    """What all tools have. `options` are further arguments by role; `raises` those that can raise the class.

    With `server` the names are those of one MCP server's tools, registered in every form in which clients write them.
    `schema` lists the SHA-256 hex of the tool's JSON schema (RFC 8785), as looked at by whoever registered it: with
    another one, or none, the call is unknown.
    """

    names: _Names
    server: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    schema_: tuple[_Digest, ...] = Field(default=(), alias="schema")
    options: dict[str, str] = Field(default={})
    raises: dict[str, Raised] = Field(default={})
    examples: tuple[ToolExample, ...] = ()

    @property
    def registered(self) -> tuple[str, ...]:
        """Every name that a client may call it by."""
        if self.server is None:
            return self.names
        forms = ("mcp__{0}__{1}", "{0}__{1}", "mcp_{0}_{1}", "{0}_{1}", "{0}.{1}")
        return tuple(form.format(self.server, name) for name in self.names for form in forms)


class ShellTool(ToolBase):
    """A tool that runs a command: `command` names the argument that holds it (a string, or a list of words)."""

    adapter: Literal["shell"]
    command: _Names
    workdir: tuple[str, ...] = ()


class InputTool(ToolBase):
    """A tool that types into a running program. Nothing, and the `interrupts`, can be told; all else is opaque."""

    adapter: Literal["input"]
    input: _Names
    interrupts: tuple[str, ...] = ()
    class_: Class = Field(alias="class")
    reason: str = Field(min_length=3)


class FieldsTool(ToolBase):
    """A tool whose arguments are plain fields; `fields` gives the role of each.

    `one_of`: exactly one of these must be there. `nested`: fields that hold an object, or the JSON text of one, with
    their own roles. `egress`: where the call sends what it is given, whatever its fields say.
    """

    adapter: Literal["fields", "mcp"]
    fields: dict[str, str] = Field(default={})
    nested: dict[str, dict[str, str]] = Field(default={})
    one_of: tuple[str, ...] = ()
    class_: Class = Field(alias="class")
    reason: str = Field(min_length=3)
    standing: bool = False
    egress: Literal["none", "listed", "other"] = "none"


class EditTool(ToolBase):
    """A tool that changes one file. `old` and `new` hold what is replaced, `content` the whole of the file.

    `edits` names a list of objects with `old` and `new` of their own. `verb` names an argument that says what is done:
    the values in `views` only read, any other of `verbs` is a change. `moves` is a second path; `deletes`: it goes.
    """

    adapter: Literal["edit"]
    path: _Names
    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()
    moves: tuple[str, ...] = ()
    verb: str | None = None
    verbs: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    deletes: bool = False
    class_: Class = Field(alias="class")
    reason: str = Field(min_length=3)
    standing: bool = False


class PatchTool(ToolBase):
    """A tool that takes a patch in the `*** Begin Patch` form; the files it names are its targets.

    As many deletions as `many_deletes` in one patch are R3.
    """

    adapter: Literal["patch"]
    patch: _Names
    many_deletes: int = Field(default=10, ge=1)
    class_: Class = Field(alias="class")
    reason: str = Field(min_length=3)
    standing: bool = False


class HttpRoute(Strict):
    """What requests to some paths are worth. `hosts`, `paths` and `methods` are all to match; `paths` are templates.

    In a template `{}` stands for one segment without special characters, and `**` at its end for any further ones.
    """

    methods: tuple[str, ...] = Field(min_length=1)
    paths: tuple[str, ...] = Field(min_length=1)
    hosts: tuple[str, ...] = ("*",)
    class_: Class = Field(alias="class")
    reason: str = Field(min_length=3)


class HttpTool(ToolBase):
    """A tool that sends one request. Without `method` it is a GET. `headers` are the names that say nothing.

    A request is R0 when it only reads, and R2 otherwise, before the host is looked at; `routes` may say more, for what
    only reads also R0 on paths that they list. `strict` makes everything UNKNOWN that no route lists.
    """

    adapter: Literal["http"]
    url: _Names
    method: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    default_method: str = "GET"
    safe_headers: tuple[str, ...] = ("accept", "accept-language", "user-agent", "cache-control", "if-none-match")
    routes: tuple[HttpRoute, ...] = ()
    strict: bool = False


class KubernetesTool(ToolBase):
    """A tool that writes or removes the objects in its argument `object`: text in YAML or JSON, or an object.

    `kind`, `name` and `namespace` are arguments that say more of them. Kinds are targets of the kind `resource`,
    namespaces of the kind `namespace`, and privileged fields make the call R3.
    """

    adapter: Literal["kubernetes"]
    object: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    name: tuple[str, ...] = ()
    namespace: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    class_: Class = Field(alias="class")
    reason: str = Field(min_length=3)


class SqlTool(ToolBase):
    """A tool that runs SQL on one registered database, in `dialect`. `parameters` are bound values.

    `environment` and `sensitive` say what the database is: reads of production are reads, of customer data they are R1.
    """

    adapter: Literal["sql"]
    query: _Names
    parameters: tuple[str, ...] = ()
    dialect: Literal[
        "sql-postgres", "sql-mysql", "sql-sqlite", "sql-clickhouse", "sql-duckdb", "sql-bigquery", "mongosh"
    ]
    environment: Literal["nonprod", "prod"] = "prod"
    sensitive: bool = True
    reason: str = Field(min_length=3)


class CodeTool(ToolBase):
    """A tool that runs code, or drives a browser or a screen: opaque, whatever it is given."""

    adapter: Literal["code"]
    code: tuple[str, ...] = ()
    reason: str = Field(min_length=3)


ToolSpec: TypeAlias = Annotated[
    ShellTool | InputTool | FieldsTool | EditTool | PatchTool | HttpTool | KubernetesTool | SqlTool | CodeTool,
    Field(discriminator="adapter"),
]


def by_name(tools: Iterable[ToolSpec]) -> Mapping[str, ToolSpec]:
    """Every tool by every name that it is registered under."""
    return {name: tool for tool in tools for name in tool.registered}


def faults(tools: Iterable[ToolSpec], roles: Set[str]) -> list[str]:
    """What is wrong with the tools of a bundle. `roles` are those that programs may use, kinds of targets included."""
    tools = tuple(tools)
    known = TYPES | JUDGED | roles
    found = [f"tool {tool.names[0]}: {fault}" for tool in tools for fault in _faults(tool, known)]
    names = [name for tool in tools for name in tool.registered]
    found += [f"the tool name {name} is registered twice" for name in sorted({n for n in names if names.count(n) > 1})]
    return found


def roles_of(tool: ToolSpec) -> list[str]:
    """Every role that the tool uses, without the sign of a list."""
    used = list(tool.options.values())
    if isinstance(tool, FieldsTool):
        used += [*tool.fields.values(), *(role for nested in tool.nested.values() for role in nested.values())]
    return [role.removesuffix("*") for role in used]


def _faults(tool: ToolSpec, known: Set[str]) -> list[str]:
    found = [f"no role '{role}'" for role in roles_of(tool) if role not in known]
    own = [*tool.options, *tool.raises, *_arguments(tool)]
    found += [f"the argument '{name}' is given twice" for name in sorted({n for n in own if own.count(n) > 1})]
    found += [f"'{name}' raises nothing" for name, raised in tool.raises.items() if _class(raised.class_).nonprod in {
        Base.R0}]  # fmt: skip
    found += [f"an example calls '{each.tool}', which is not its name" for each in tool.examples
              if each.tool is not None and each.tool not in tool.registered]  # fmt: skip
    match tool:
        case FieldsTool():
            if tool.adapter == "mcp" and not (tool.server and tool.schema_):
                found.append("a tool of an MCP server needs its server and the digest of its schema")
            missing = set(tool.one_of) - {*tool.fields, *tool.nested}
            found += [f"'{name}' is not among its fields" for name in sorted(missing)]
        case EditTool():
            found += _floor(tool.class_, Base.R1, "an edit")
            if (tool.verb is None) != (not tool.verbs) or set(tool.views) - set(tool.verbs):
                found.append("'verb', 'verbs' and 'views' do not fit together")
        case PatchTool():
            found += _floor(tool.class_, Base.R1, "a patch")
        case InputTool():
            found += _floor(tool.class_, Base.R1, "an interrupt")
        case KubernetesTool():
            found += _floor(tool.class_, Base.R2, "a change of objects")
        case HttpTool():
            for route in tool.routes:
                if set(route.methods) - _READS_ONLY:
                    found += _floor(route.class_, Base.R2, "a request that may change something")
        case ShellTool() | SqlTool() | CodeTool():
            pass
    return found


def _arguments(tool: ToolSpec) -> list[str]:
    """The arguments that an adapter reads by itself."""
    match tool:
        case ShellTool():
            return [*tool.command, *tool.workdir]
        case InputTool():
            return [*tool.input]
        case FieldsTool():
            return [*tool.fields, *tool.nested]
        case EditTool():
            verb = () if tool.verb is None else (tool.verb,)
            return [*tool.path, *tool.old, *tool.new, *tool.content, *tool.edits, *tool.moves, *verb]
        case PatchTool():
            return [*tool.patch]
        case HttpTool():
            return [*tool.url, *tool.method, *tool.headers, *tool.body]
        case KubernetesTool():
            return [*tool.object, *tool.kind, *tool.name, *tool.namespace, *tool.context]
        case SqlTool():
            return [*tool.query, *tool.parameters]
        case CodeTool():
            return [*tool.code]


def _class(text: str) -> ClassOf:
    try:
        return class_of(text)
    except BundleError:
        return ClassOf(Base.R0, Base.R0)  # reported as one that raises nothing, or as below the floor


def _floor(text: str, floor: Base, what: str) -> list[str]:
    """A fault when the class is below `floor`: what changes something is never a mere read."""
    order = (Base.R0, Base.R1, Base.R2, Base.UNKNOWN, Base.OPAQUE, Base.R3, Base.FORBIDDEN)
    if order.index(_class(text).nonprod) >= order.index(floor):
        return []
    return [f"{what} cannot be {text}: at least {floor.value}"]
