"""The small languages of text tools: is this sed, awk or jq program one that only reads and prints?

Each function is a scanner over an allowlist: what it does not know is False, and the word is then unknown. Where two
implementations would cut the text differently (delimiters inside brackets, labels with semicolons), it is False too.
"""

import re
from collections.abc import Callable


def _words(text: str) -> list[str]:
    return text.split()


# --- sed -------------------------------------------------------------------------------------------------------------

_SED_SPACE = re.compile(r"[ \t]*")
_SED_ADDRESS = re.compile(r"[0-9]+~[0-9]+|[0-9]+|\$")
_SED_SECOND = re.compile(r"[ \t]*,[ \t]*([+~]?[0-9]+|\$)")
_SED_LABEL = re.compile(r":[ \t]*[A-Za-z0-9_]+(?=[ \t]*(;|\n|$))")
_SED_PLAIN = re.compile(
    r"(?:[dDgGhHnNpPxzF=]|[btT](?:[ \t]*[A-Za-z0-9_]+)?|[qQl](?:[ \t]*[0-9]{1,3})?)"
    r"(?=[ \t]*([;}\n#]|$))"
)
_SED_TEXT = re.compile(r"[aic](?:\\\n|[ \t]*\\?)[^\\\n]*(?=\n|$)")
_SED_SUBSTITUTE_FLAGS = re.compile(r"[gpIiMm0-9]*(?=[ \t]*([;}\n#]|$))")


def _sed_pattern(text: str, at: int, delimiter: str) -> int | None:
    """Where a regular expression that begins at `at` has its closing delimiter."""
    while at < len(text):
        char = text[at]
        if char == delimiter:
            return at
        if char == "\n":
            return None
        if char == "\\":
            if text[at + 1 : at + 2] in {"", "\n"}:
                return None
            at += 2
        elif char == "[":
            closed = text.find("]", at + 2 + (text[at + 1 : at + 2] == "^"))
            # `[[:space:]]`: the class ends at the bracket after `:]`.
            while closed > 0 and text[closed - 1] in ":.=" and text.find("[" + text[closed - 1], at + 1, closed) >= 0:
                closed = text.find("]", closed + 1)
            # `[^\\/]`: behind a backslash the delimiter ends the expression neither for those who read brackets nor for
            # those who do not.
            inside = re.sub(r"\\(.)", lambda pair: "" if pair[1] == delimiter else pair[0], text[at:closed], flags=re.S)
            if closed < 0 or any(odd in inside for odd in (delimiter, "\\\n", "\n")):
                return None
            at = closed + 1
        else:
            at += 1
    return None


def _sed_replacement(text: str, at: int, delimiter: str) -> int | None:
    while at < len(text):
        if text[at] == delimiter:
            return at
        if text[at] == "\n" or (text[at] == "\\" and text[at + 1 : at + 2] in {"", "\n"}):
            return None
        at += 2 if text[at] == "\\" else 1
    return None


def _sed_address(text: str, at: int) -> int | None:
    """End of the addresses before a command; `at` itself when there are none, None when they are odd."""
    found = _SED_ADDRESS.match(text, at)
    if found:
        at = found.end()
    elif text[at : at + 1] == "/":
        closed = _sed_pattern(text, at + 1, "/")
        if closed is None:
            return None
        at = closed + 1 + (text[closed + 1 : closed + 2] == "I")
    else:
        return at
    second = _SED_SECOND.match(text, at)
    if second:
        return second.end()
    comma = re.compile(r"[ \t]*,[ \t]*/").match(text, at)
    if comma:
        closed = _sed_pattern(text, comma.end(), "/")
        return None if closed is None else closed + 1 + (text[closed + 1 : closed + 2] == "I")
    return at


def _sed_command(text: str, at: int) -> int | None:
    """End of the one command that begins at `at`."""
    if text[at] == "s":
        delimiter = text[at + 1 : at + 2]
        if delimiter not in set("/|,#:@!%+~_;"):
            return None
        first = _sed_pattern(text, at + 2, delimiter)
        second = None if first is None else _sed_replacement(text, first + 1, delimiter)
        flags = None if second is None else _SED_SUBSTITUTE_FLAGS.match(text, second + 1)
        return flags.end() if flags else None
    if text[at] == "y":
        delimiter = text[at + 1 : at + 2]
        if delimiter not in {"/", "|", ","}:
            return None
        first = _sed_replacement(text, at + 2, delimiter)
        second = None if first is None else _sed_replacement(text, first + 1, delimiter)
        return None if second is None else second + 1
    for known in (_SED_PLAIN, _SED_TEXT, _SED_LABEL):
        found = known.match(text, at)
        if found:
            return found.end()
    return None


def sed_reads(text: str) -> bool:
    """No `e`, `w`, `r`, `R`, `W` command and no such flag of `s`; nothing that is not on the list."""
    at, depth = 0, 0
    while True:
        at = re.compile(r"[ \t\n;]*").match(text, at).end()  # type: ignore[union-attr]
        if at >= len(text):
            return depth == 0
        if text[at] == "#":
            at = text.find("\n", at) if "\n" in text[at:] else len(text)
            continue
        if text[at] == "}":
            depth -= 1
            if depth < 0:
                return False
            at += 1
            continue
        after = _sed_address(text, at)
        if after is None:
            return False
        after = _SED_SPACE.match(text, after).end()  # type: ignore[union-attr]
        while text[after : after + 1] == "!":
            after = _SED_SPACE.match(text, after + 1).end()  # type: ignore[union-attr]
        if text[after : after + 1] == "{":
            depth += 1
            at = after + 1
            continue
        end = _sed_command(text, after) if after < len(text) else None
        if end is None:
            return False
        at = _SED_SPACE.match(text, end).end()  # type: ignore[union-attr]
        if at < len(text) and text[at] not in ";}\n#":
            return False


# --- awk -------------------------------------------------------------------------------------------------------------

_AWK_TOKEN = re.compile(
    r"""(?P<space>[ \t\n]+|\\\n|\#[^\n]*)|(?P<string>"(?:[^"\\\n]|\\[^\n])*")
    |(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<op>\|\||&&|\+\+|--|[-+*%^=!<>]=|!~|>>|\*\*|[-+*/%^=!<>~?:,;(){}\[\]$|&@])""",
    re.X,
)
_AWK_REGEX = re.compile(r"/(?:\[\^?\]?[^\]\\/\n\[]*\]|\[\^?\[:[a-z]+:\][^\]\\/\n\[]*\]|[^/\\\n\[]|\\[^\n])+/")
_AWK_SINK = re.compile(r'[ \t]*"/dev/std(err|out)"[ \t]*(?=[;}\n]|$)')
_AWK_CALL = re.compile(r"[ \t]*\(")
_AWK_FUNCTIONS = frozenset(
    _words(
        "length substr index split sub gsub match sprintf toupper tolower int sqrt exp log sin cos atan2 rand "
        "srand strftime systime mktime gensub asort asorti and or xor lshift rshift compl strtonum patsplit "
        "typeof isarray"
    )
)
_AWK_WORDS = frozenset(_words("BEGIN END if else while for in do break continue next exit delete print printf return"))
# Run, read or tell something that the command line does not show, or change which files are read.
_AWK_NEVER = frozenset(
    _words(
        "system getline close fflush ENVIRON PROCINFO ARGV ARGC ARGIND SYMTAB FUNCTAB nextfile func "
        "include load namespace extension switch case default BEGINFILE ENDFILE ERRNO"
    )
)
# Where its head stands is not checked: a function that awk does not have, and the program does not define, is an error.
_AWK_OWN = re.compile(r"\bfunction[ \t]+([A-Za-z_][A-Za-z0-9_]*)\(")
# A newline after the first ones changes nothing, after the second ones it ends a statement; elsewhere it is odd.
_AWK_GOES_ON = frozenset({"", ",", "{", "&&", "||", "else", "do", "\n", ";", "}"})
_AWK_MAY_END = frozenset({"operand", "regex"}) | (_AWK_WORDS - {"else", "do", "in"})


def awk_reads(text: str) -> bool:
    """No pipe, no file to write, no `system` or `getline`, no environment; known functions and its own only."""
    nesting: list[str] = []
    known = _AWK_FUNCTIONS | _AWK_WORDS | frozenset(_AWK_OWN.findall(text))
    at, before, printing = 0, "", False
    while at < len(text):
        if text[at] == "/" and _operand_follows(before):
            found = _AWK_REGEX.match(text, at)
            if found is None:
                return False
            at, before = found.end(), "regex"
            continue
        token = _AWK_TOKEN.match(text, at)
        if token is None:
            return False
        at = token.end()
        kind, value = token.lastgroup, token.group()
        if kind == "space":
            if value[0] in " \t\n" and "\n" in value and before not in _AWK_GOES_ON:
                if before not in _AWK_MAY_END or "(" in nesting or "[" in nesting:
                    return False
                before, printing = "\n", False
            continue
        if kind == "name":
            called = _AWK_CALL.match(text, at) is not None
            if value in _AWK_NEVER or (called and value not in known):
                return False
            printing = printing or value in {"print", "printf"}
            if value == "function" and (nesting or before not in {"", "}", ";", "\n"}):
                return False
            before = value if value in _AWK_WORDS or value == "function" else "operand"
            continue
        if kind in {"string", "number"}:
            before = "operand"
            continue
        if value in {"|", "&", "@", ">>"}:
            return False
        # Within parentheses it compares; elsewhere in a print statement it writes to a file.
        writes = value == ">" and printing and "(" not in nesting[_last_brace(nesting) :]
        if writes and _AWK_SINK.match(text, at) is None:
            return False
        if value in "({[":
            nesting.append(value)
        elif value in ")}]" and (not nesting or nesting.pop() + value not in {"()", "{}", "[]"}):
            return False
        if value in "{};":
            printing = False
        before = "operand" if value in {")", "]", "++", "--"} else value
    return not nesting


def _last_brace(nesting: list[str]) -> int:
    return max((place for place, char in enumerate(nesting) if char == "{"), default=0)


def _operand_follows(before: str) -> bool:
    """True when `/` after this token begins a regular expression, and is no division."""
    return before not in {"operand", "regex", "$"}


# --- jq --------------------------------------------------------------------------------------------------------------

_JQ_TOKEN = re.compile(
    r"""(?P<space>[ \t\n]+|\#[^\n]*)|(?P<field>\.[A-Za-z_][A-Za-z0-9_]*)|(?P<variable>\$[A-Za-z_][A-Za-z0-9_]*)
    |(?P<format>@[a-z0-9]+)|(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<op>\?//=?|\|=|//=|//|[-+*/%=!<>]=|\.\.|[-.,:;|+*/%<>=?(){}\[\]])""",
    re.X,
)
_JQ_STRING = re.compile(r'(?:[^"\\]|\\[^(])*')
_JQ_NAMES = frozenset(
    _words(
        "length utf8bytelength keys keys_unsorted values has in map map_values path paths leaf_paths del getpath "
        "setpath delpaths to_entries from_entries with_entries select empty error add any all flatten range "
        "floor ceil round sqrt pow log log2 exp fabs abs tostring tonumber tojson fromjson type infinite nan "
        "isinfinite isnan isnormal sort sort_by group_by min max min_by max_by unique unique_by reverse contains "
        "inside startswith endswith combinations ltrimstr rtrimstr trimstr trim ltrim rtrim explode implode "
        "split splits join ascii_downcase ascii_upcase recurse transpose bsearch first last nth until while "
        "repeat limit skip indices index rindex test match capture scan sub gsub ascii todate fromdate now "
        "localtime gmtime mktime strftime strptime dateadd datesub date fromdateiso8601 todateiso8601 "
        "dateiso8601 tostream fromstream truncate_stream walk input inputs debug arrays objects iterables "
        "booleans numbers normals finites strings nulls scalars not pick have_literal_numbers getpath ltrimstr "
        "toarray isvalid splits document_index di sort_keys key tag line column upcase downcase to_yaml from_yaml "
        "halt if then elif else end as def reduce foreach ireduce try catch label break and or "
        "null true false"
    )
)


# Functions that disclose something: a key of this name is not taken on trust, though jq reads `{env}` as `{env: .env}`.
_JQ_NEVER_SHORT = frozenset(_words("env input_filename get_search_list modulemeta stderr halt_error input_line_number"))
# What may not be the name of an own function: where its definition does not reach, the name is what jq, or yq, has.
_JQ_NEVER_OWN = _JQ_NEVER_SHORT.union(
    _words(
        "import include input inputs debug error builtins getpath ltrimstr load load_str load_props load_xml "
        "load_base64 strenv envsubst eval eval_all filename file_index system exec"
    )
)
_JQ_COLON = re.compile(r"[ \t\n]*:(?!:)")


def jq_reads(text: str) -> bool:
    """Filters over the input alone: no environment, no modules, known functions and its own (see `_JQ_NAMES`)."""
    open_brackets: list[str] = []
    own: set[str] = set()
    defining = ""  # after `def`: what may come next
    at, in_string, before = 0, False, ""
    while at < len(text) or in_string:
        if in_string:
            at = _JQ_STRING.match(text, at).end()  # type: ignore[union-attr]
            if at >= len(text):
                return False
            in_string, before = False, "string"
            if text[at] == '"':
                at += 1
            else:  # `\\(`: code until its closing parenthesis
                open_brackets.append('"')
                at += 2
            continue
        if text[at] == '"':
            in_string = True
            at += 1
            continue
        token = _JQ_TOKEN.match(text, at)
        if token is None:
            return False
        at = token.end()
        kind, value = token.lastgroup, token.group()
        if kind == "space":
            continue
        if defining:
            defining = _jq_definition(defining, str(kind), value, own)
            if defining == "fault":
                return False
            before = value
            continue
        # Between braces a name before a colon is a key, and so is one where a key begins: `{id, name: .user}`.
        begins = before in {"{", ","} and value not in _JQ_NEVER_SHORT
        is_key = open_brackets[-1:] == ["{"] and (_JQ_COLON.match(text, at) is not None or begins)
        before = value
        if kind == "name" and value not in _JQ_NAMES and value not in own and not is_key:
            return False
        if value == "def" and kind == "name" and not is_key:
            defining = "name"
        if kind == "variable" and (value == "$ENV" or value.startswith("$__prog")):
            return False
        if value in {"(", "[", "{"}:
            open_brackets.append(value)
        elif value in {")", "]", "}"}:
            opened = open_brackets.pop() if open_brackets else ""
            in_string = opened + value == '")'
            if not in_string and opened + value not in {"()", "[]", "{}"}:
                return False
    return not open_brackets and not defining


def _jq_definition(state: str, kind: str, value: str, own: set[str]) -> str:
    """One token of `def NAME(PARAMETER; ...):`; the names it defines are put into `own`. Empty when it is over."""
    if state in {"name", "parameter"} and kind in {"name", "variable"} and (kind == "name" or state == "parameter"):
        if value in _JQ_NEVER_OWN or value in {"$ENV", "def"} or value.startswith("$__"):
            return "fault"
        if kind == "name":
            own.add(value)
        return "( or :" if state == "name" else "; or )"
    following = {("( or :", "("): "parameter", ("( or :", ":"): "", ("; or )", ";"): "parameter", ("; or )", ")"): ":",
                 (":", ":"): ""}  # fmt: skip
    return following.get((state, value), "fault")


READERS: dict[str, Callable[[str], bool]] = {"sed-script": sed_reads, "awk-program": awk_reads, "jq-program": jq_reads}


# --- templates of docker inspect -------------------------------------------------------------------------------------

_TEMPLATE_ACTION = re.compile(r"\{\{(-[ \t\n])?(?P<code>(?:[^{}\"`]|\"(?:[^\"\\\n]|\\[^\n])*\")*?)([ \t\n]-)?\}\}")
_TEMPLATE_TOKEN = re.compile(
    r"""(?P<space>[ \t\n]+)|(?P<root>\$(?=[. \t\n|)]|$)(?:\.[A-Za-z0-9_]+)*)
    |(?P<variable>\$[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*)
    |(?P<path>\.[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*)|(?P<dot>\.)|(?P<text>"(?:[^"\\\n]|\\[^\n])*")
    |(?P<number>-?[0-9]+)|(?P<word>[a-z]+)|(?P<op>:=|[=,|()])""",
    re.X,
)
# Below these lies no variable of the environment, no argument and no label, which may hold a password.
_TEMPLATE_SHOWN = frozenset(
    _words(
        "State Created Image Id ID Name RestartCount NetworkSettings Mounts Platform Driver SizeRw SizeRootFs Path "
        "HostConfig.RestartPolicy HostConfig.NetworkMode HostConfig.Memory HostConfig.NanoCpus HostConfig.CpuShares "
        "HostConfig.PortBindings HostConfig.Privileged Config.Image Config.Hostname Config.User Config.WorkingDir "
        "Config.ExposedPorts RepoTags RepoDigests Architecture Os Size VirtualSize RootFS Parent LogPath HostnamePath "
        "Mountpoint Scope"
    )
)
_TEMPLATE_FUNCTIONS = frozenset(
    _words(
        "json len println print printf join split index slice lower upper title truncate eq ne lt le gt ge and or not"
    )
)
_TEMPLATE_BLOCKS = frozenset(_words("if range with"))


def docker_shows(text: str) -> bool:
    """A Go template that names only what is in `_TEMPLATE_SHOWN`, or lies below it; known functions only.

    A word that is no template (`json`) is a form in which everything is printed.
    """
    if "{{" not in text:
        return False
    # For the template and each open block: whether the dot is such a part there.
    inner: list[bool] = [False]
    at = 0
    while (opened := text.find("{{", at)) >= 0:
        action = _TEMPLATE_ACTION.match(text, opened)
        if action is None or not _template_action(action["code"], inner):
            return False
        at = action.end()
    return len(inner) == 1


def _template_action(code: str, inner: list[bool]) -> bool:
    """One action; `inner` is changed by blocks that it opens or closes."""
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(code):
        token = _TEMPLATE_TOKEN.match(code, at)
        if token is None:
            return False
        at = token.end()
        if token.lastgroup != "space":
            tokens.append((str(token.lastgroup), token.group()))
    keyword = tokens[0][1] if tokens and tokens[0][0] == "word" else ""
    if keyword == "end":
        if len(tokens) > 1 or len(inner) < 2:
            return False
        inner.pop()
        return True
    if keyword == "else":
        # The dot of an `else` is that of outside; `else if` opens nothing of its own.
        if len(inner) < 2:
            return False
        inner[-1] = inner[-2]
        tokens = tokens[1:]
        keyword = tokens[0][1] if tokens else ""
        if keyword not in {"", "if"}:
            return False
    elif keyword in _TEMPLATE_BLOCKS:
        inner.append(inner[-1])
    if keyword in _TEMPLATE_BLOCKS:
        tokens = tokens[1:]
    plain = inner[-1]
    for kind, value in tokens:
        if (kind == "word" and value not in _TEMPLATE_FUNCTIONS) or (kind == "dot" and not plain):
            return False
        if kind == "root" and not _template_shown(value.removeprefix("$")):
            return False
        if kind == "path" and not plain and not _template_shown(value):
            return False
    if keyword in {"range", "with"}:
        inner[-1] = True
    return True


def _template_shown(path: str) -> bool:
    parts = path.removeprefix(".").split(".")
    return parts[0] in _TEMPLATE_SHOWN or ".".join(parts[:2]) in _TEMPLATE_SHOWN


# Roles of templates: what they may print beyond what the reader of theirs knows is sensitive.
SHOWING: dict[str, Callable[[str], bool]] = {"docker-template": docker_shows}
