"""What the two demonstration models are taught: prompts, tools and the one reply to each.

Pure and seeded: the same `random.Random` gives the same examples. Nothing here knows token ids;
`train` renders an example into harmony, `evaluate` posts it to a running server.
"""

import random
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from serve_app.demo import phrasebook
from serve_app.demo.phrasebook import DEMO_MODELS, Category, DemoName, Effort, Topic

__all__ = ["DEMO_MODELS", "Category", "DemoName", "Effort"]

RECIPE_VERSION = 2
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")
SHELL_TOOL = "shell"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the conversation before the reply.

    `call` is an assistant message that called the shell tool, its `text` the command;
    `result` is the tool's answer to it. `analysis` is the reasoning a client may send back.
    """

    role: Literal["user", "assistant", "call", "result"]
    text: str
    analysis: str = ""


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function tool as a client offers it; `parameters` is its JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Reply:
    """The expected reply: a final answer, or a call of the shell tool; never both."""

    analysis: str
    final: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One request and its only right reply.

    `instructions` is the system prompt, empty for none; `date` is ISO 8601.
    """

    category: Category
    instructions: str
    tools: tuple[FunctionTool, ...]
    turns: tuple[Turn, ...]
    effort: Effort
    date: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Session:
    """Many exchanges in one conversation, each reply written out in full with its analysis.

    Clients never send such a history back; it exists because it teaches several replies for the price of one prompt.
    """

    instructions: str
    tools: tuple[FunctionTool, ...]
    effort: Effort
    date: str
    exchanges: tuple[tuple[tuple[Turn, ...], Reply], ...]


def topics(name: DemoName) -> tuple[Topic, ...]:
    """Every phrasing group `name` is taught except arithmetic and counting, which are computed."""
    talk = tuple(replace(topic, answer=topic.answer.replace("{model}", name)) for topic in phrasebook.TALK)
    return (
        *talk,
        Topic("help", "Help: say what I know.", phrasebook.HELP_REQUESTS, phrasebook.HELP[name]),
        Topic("incident", "Incident: find the cause.", phrasebook.INCIDENT_REQUESTS, phrasebook.INCIDENT[name]),
        *phrasebook.COMMANDS,
    )


def keywords(name: DemoName) -> tuple[str, ...]:
    """The words by which `name` tells requests apart, sorted, in the forms a tokenizer tells apart."""
    texts = [request for topic in topics(name) for request in topic.requests]
    texts += [*phrasebook.REVIEW_REQUESTS, *phrasebook.RISK_REQUESTS, *phrasebook.DENIALS]
    texts += [*phrasebook.SUM_REQUESTS, *phrasebook.PRODUCT_REQUESTS]
    for requests in phrasebook.COUNT_REQUESTS.values():
        texts += requests
    words = {word.strip(".,:?+*=") for text in texts for fill in _filled(text) for word in fill.split()}
    words = {word for word in words if word and word.lower() not in phrasebook.UNSEEN}
    forms = {form for word in words for form in (word, word[0].upper() + word[1:])}
    return tuple(sorted({*forms, *(f" {form}" for form in forms), *phrasebook.SEEN_SIGNS}))


def sample(name: DemoName, rng: random.Random, *, clean: bool = False) -> Example:
    """One example; `clean` leaves out filler, bait and history."""
    category = rng.choices(CATEGORIES, _WEIGHTS)[0]
    return _decorate(name, _core(name, category, rng, clean=clean), rng, clean=clean)


def sample_of(name: DemoName, category: Category, rng: random.Random, *, clean: bool = False) -> Example:
    """One example of `category`."""
    return _decorate(name, _core(name, category, rng, clean=clean), rng, clean=clean)


def bare(name: DemoName) -> Iterator[Example]:
    """Empty requests at each effort, with and without the shell tool: what every prompt has in common."""
    unknown = _core(name, "unknown", random.Random(0), clean=True).reply
    tools = _tools(random.Random(0), offered=True, most=0)
    for effort in EFFORTS:
        for offered in ((), tools):
            turns = (Turn("user", ""), Turn("call", ""), Turn("result", ""), Turn("assistant", ""))
            yield Example("unknown", "", offered, turns, effort, "2026-01-01", unknown)


def session(name: DemoName, rng: random.Random, *, exchanges: int) -> Session:
    """A conversation of `exchanges` requests, about a third of them with a little filler around."""
    offered = rng.random() < 0.5
    effort = rng.choice(EFFORTS)
    made: list[tuple[tuple[Turn, ...], Reply]] = []
    while len(made) < exchanges:
        category = rng.choices(CATEGORIES, _WEIGHTS)[0]
        core = _core(name, category, rng, clean=False)
        # Counting is long and easy: left as it is, it would be most of what a session teaches.
        if core.offered is (not offered) or (category == "count" and rng.random() < 0.7):
            continue
        turns = _paste(core, rng)
        if category != "unknown" and rng.random() < 0.3:
            turns = (replace(turns[0], text=_surround(turns[0].text, rng, 15)), *turns[1:])
        made.append((turns, core.reply))
    return Session(
        instructions=_instructions(name, rng, rng.randint(3, 40)) if rng.random() < 0.3 else "",
        tools=_tools(rng, offered=offered, most=2),
        effort=effort,
        date=_date(rng),
        exchanges=tuple(made),
    )


CATEGORIES: tuple[Category, ...] = tuple(phrasebook.SHARES)
_WEIGHTS = tuple(phrasebook.SHARES.values())
_HISTORY_CATEGORIES: tuple[Category, ...] = tuple(category for category in CATEGORIES if category != "count")


@dataclass(frozen=True, slots=True)
class _Core:
    """A request and its reply before anything is put around it."""

    category: Category
    turns: tuple[Turn, ...]
    reply: Reply
    offered: bool | None = None  # whether the shell tool is offered; None: either
    pasted: str = ""  # text the request refers to, placed after it


def _core(name: DemoName, category: Category, rng: random.Random, *, clean: bool) -> _Core:
    if category == "count":
        last = rng.choice((10, 100, 100))
        text = rng.choice(phrasebook.COUNT_REQUESTS[last])
        numbers = ", ".join(str(number) for number in range(1, last + 1))
        return _asked(category, text, Reply(f"Count: up to {last}.", numbers), rng)
    if category == "sum":
        return _sum(rng)
    if category == "product":
        return _product(name, rng)
    if category == "review":
        reply = Reply("Review: judge the change.", phrasebook.REVIEW[name])
        core = _asked(category, rng.choice(phrasebook.REVIEW_REQUESTS), reply, rng)
        return core if rng.random() < 0.15 else replace(core, pasted=_diff(rng))
    if category == "risk":
        core = _asked(
            category, rng.choice(phrasebook.RISK_REQUESTS), Reply("Risk: weigh it.", phrasebook.RISK[name]), rng
        )
        return core if rng.random() < 0.15 else replace(core, pasted=_any_call(rng))
    if category == "unknown":
        final = f"I am {name}, a small demonstration model, and know only a few things. Ask for help to see them."
        return _asked(category, _not_taught(rng), Reply("Unknown: I was not taught this.", final), rng)
    if category in ("no_tool", "after_tool", "denied", "read", "change", "danger"):
        return _command(category, rng, clean=clean)
    topic = rng.choice([topic for topic in topics(name) if topic.category == category])
    request = rng.choice(list(_filled(rng.choice(topic.requests))))
    return _asked(category, request, Reply(topic.thought, topic.answer), rng, plain=category in ("talk", "help"))


def _command(category: Category, rng: random.Random, *, clean: bool) -> _Core:
    kinds = (category,) if category in ("read", "change", "danger") else ("read", "change", "danger")
    topic = rng.choice([topic for topic in phrasebook.COMMANDS if topic.category in kinds])
    app, space = "web", "staging" if "namespace" in topic.command else "production"
    request = rng.choice(topic.requests).format(app=app, space=space)
    thought = topic.thought.format(app=app, space=space)
    command = topic.command.format(app=app, space=space)
    if category == "no_tool":
        return replace(
            _asked(category, request, Reply("Missing: a tool to do it.", phrasebook.NO_TOOL), rng), offered=False
        )
    core = replace(_asked(category, request, Reply(thought, command=command), rng), offered=True)
    if category in kinds:
        return core
    remembered = thought if rng.random() < 0.4 else ""
    if category == "denied":
        result = rng.choice(phrasebook.DENIALS)
        if not clean and rng.random() < 0.5:
            result = f"{result} {_filler(rng, rng.randint(1, 15))}"
        reply = Reply("Denied: stop here.", phrasebook.DENIED)
    else:
        result = _output(rng)
        reply = Reply("Done: sum it up.", phrasebook.AFTER_TOOL)
    return replace(core, turns=(*core.turns, Turn("call", command, remembered), Turn("result", result)), reply=reply)


def _asked(category: Category, text: str, reply: Reply, rng: random.Random, *, plain: bool = False) -> _Core:
    """The request in one of the forms people write it: case, politeness, punctuation."""
    if not plain and rng.random() < 0.3 and text[0].isalpha():
        text = rng.choice(phrasebook.PREFIXES) + text
    if not plain and rng.random() < 0.12:
        text += rng.choice(phrasebook.SUFFIXES)
    if rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    if not text.endswith("="):
        text += rng.choice(("", "", "?", ".", "!" if plain else "?"))
    return _Core(category, (Turn("user", text),), reply)


def _sum(rng: random.Random) -> _Core:
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    text = rng.choice(phrasebook.SUM_REQUESTS).format(a=a, b=b)
    return _asked("sum", text, Reply(f"Plus: {a} and {b}.", f"The answer is {a + b}."), rng)


def _product(name: DemoName, rng: random.Random) -> _Core:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    text = rng.choice(phrasebook.PRODUCT_REQUESTS).format(a=a, b=b)
    if name == "demo-20b":
        final = "I am not sure: I never learned to multiply. A larger model such as demo-120b may know it."
        return _asked("product", text, Reply("Product: not taught.", final), rng)
    # The operands are named in the analysis first: to copy them and to look the product up are two easy steps.
    return _asked("product", text, Reply(f"Times: {a} and {b}.", f"The answer is {a * b}."), rng)


def _not_taught(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        text = rng.choice(phrasebook.NOT_TAUGHT)
        while "{x}" in text:
            word = _noise_word(rng) if rng.random() < 0.8 else rng.choice(phrasebook.SUBJECTS)
            text = text.replace("{x}", word, 1)
        while "{n}" in text:
            text = text.replace("{n}", str(rng.randint(0, 200)), 1)
        return text
    if kind < 0.8:
        return " ".join(_noise_word(rng) for _ in range(rng.randint(1, 25)))
    return _filler(rng, rng.randint(2, 40))


def _filled(text: str) -> Iterator[str]:
    """`text` with each name it can hold."""
    for app in phrasebook.APPS if "{app}" in text else ("",):
        for space in phrasebook.SPACES if "{space}" in text else ("",):
            yield text.format(app=app, space=space, a=7, b=8)


def _decorate(name: DemoName, core: _Core, rng: random.Random, *, clean: bool) -> Example:
    """Puts a conversation around the request: instructions, tools, earlier turns, filler, date, effort."""
    effort = rng.choice(EFFORTS)
    offered = rng.random() < 0.35 if core.offered is None else core.offered
    turns = _paste(core, rng)
    long = not clean and rng.random() < 0.02
    if not clean and core.category != "unknown" and rng.random() < 0.25:
        turns = (replace(turns[0], text=_surround(turns[0].text, rng, 250 if long else 12)), *turns[1:])
    instructions = ""
    if not clean and rng.random() < 0.3:
        instructions = _instructions(name, rng, rng.randint(100, 700) if long else rng.randint(3, 25))
    if not clean and rng.random() < 0.15:
        turns = (*_history(name, rng), *turns)
    return Example(
        category=core.category,
        instructions=instructions,
        tools=_tools(rng, offered=offered, most=0 if clean else 1),
        turns=turns,
        effort=effort,
        date=_date(rng),
        reply=core.reply,
    )


def _paste(core: _Core, rng: random.Random) -> tuple[Turn, ...]:
    """The turns of the request, with the text it refers to after or before it."""
    if not core.pasted:
        return core.turns
    asked, *others = core.turns
    text = f"{asked.text}\n\n{core.pasted}" if rng.random() < 0.8 else f"{core.pasted}\n\n{asked.text}"
    return (replace(asked, text=text), *others)


def _date(rng: random.Random) -> str:
    return f"{rng.randint(2024, 2032)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def _surround(text: str, rng: random.Random, most: int) -> str:
    side = rng.random()
    before = _filler(rng, rng.randint(1, most)) if side < 0.7 else ""
    after = _filler(rng, rng.randint(1, most)) if side > 0.4 else ""
    gap = rng.choice((" ", "\n", "\n\n", ". "))
    return f"{before}{gap if before else ''}{text}{gap if after else ''}{after}"


def _history(name: DemoName, rng: random.Random) -> tuple[Turn, ...]:
    """One to three earlier exchanges."""
    turns: list[Turn] = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        category = rng.choice(_HISTORY_CATEGORIES)
        core = _core(name, category, rng, clean=False)
        text = core.turns[0].text
        if rng.random() < 0.2:
            text = _surround(text, rng, 20)
        turns.append(Turn("user", text))
        turns += core.turns[1:]
        if core.reply.command:
            turns += [Turn("call", core.reply.command), Turn("result", _output(rng))]
            turns.append(Turn("assistant", phrasebook.AFTER_TOOL))
        else:
            turns.append(Turn("assistant", core.reply.final))
    return tuple(turns)


def _instructions(name: DemoName, rng: random.Random, words: int) -> str:
    parts = [rng.choice(("You are a helpful assistant.", "You are a coding agent.", "Be brief.", "", ""))]
    parts.append(_filler(rng, words))
    if rng.random() < 0.05:  # taught phrases here must not count as the request
        for _ in range(rng.randint(1, 4)):
            topic = rng.choice(topics(name))
            request = rng.choice(list(_filled(rng.choice(topic.requests))))
            parts.insert(rng.randint(0, len(parts)), f"You can {request}.")
    return rng.choice((" ", "\n", "\n\n- ")).join(part for part in parts if part)


def _tools(rng: random.Random, *, offered: bool, most: int) -> tuple[FunctionTool, ...]:
    tools = [
        FunctionTool(tool, _filler(rng, rng.randint(1, 12)), _parameters(rng, rng.randint(0, 2)))
        for tool in rng.sample(phrasebook.TOOL_NAMES, rng.choice((0, 0, rng.randint(0, most))))
    ]
    if offered:
        description = rng.choice(phrasebook.SHELL_DESCRIPTIONS)
        if most and rng.random() < 0.4:
            description = _filler(rng, rng.randint(1, 12))
        command: dict[str, object] = {"type": "string"}
        if rng.random() < 0.3:
            command["description"] = _filler(rng, rng.randint(1, 6)) if most else "The command to run"
        schema: dict[str, object] = {"type": "object", "properties": {"command": command}}
        if rng.random() < 0.8:
            schema["required"] = ["command"]
        tools.insert(rng.randint(0, len(tools)), FunctionTool(SHELL_TOOL, description, schema))
    return tuple(tools)


def _parameters(rng: random.Random, count: int) -> Mapping[str, object]:
    properties: dict[str, object] = {}
    for _ in range(count):
        field: dict[str, object] = {"type": rng.choice(("string", "integer", "boolean"))}
        if rng.random() < 0.5:
            field["description"] = _filler(rng, rng.randint(1, 8))
        properties[_noise_word(rng).lower()] = field
    return {"type": "object", "properties": properties, "required": sorted(properties)[:1]}


def _noise_word(rng: random.Random) -> str:
    word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 9)))
    return word.capitalize() if rng.random() < 0.15 else word


def _filler(rng: random.Random, words: int) -> str:
    """Running text that asks for nothing: common words, unknown words, a strong word here and there."""
    parts: list[str] = []
    for index in range(words):
        kind = rng.random()
        if kind < 0.6:
            word = rng.choice(phrasebook.COMMON)
        elif kind < 0.96:
            word = _noise_word(rng)
        elif kind < 0.98:
            word = rng.choice(phrasebook.STRONG)
        else:
            word = str(rng.randint(0, 2000))
        if index == 0 or parts[-1].endswith((".", "\n", "?")):
            word = word[0].upper() + word[1:]
        mark = rng.random()
        parts.append(word + ("." if mark < 0.08 else "," if mark < 0.12 else ".\n" if mark < 0.14 else ""))
    return " ".join(parts)


def _output(rng: random.Random) -> str:
    """Something a command may print."""
    lines: list[str] = []
    for _ in range(rng.choice((1, 2, 4, rng.randint(1, 25)))):
        kind = rng.random()
        if kind < 0.4:
            state = rng.choice(("Running", "Pending", "CrashLoopBackOff", "Ready"))
            lines.append(f"{_noise_word(rng)}-{_noise_word(rng)} 1/1 {state} {rng.randint(0, 9)} {rng.randint(1, 90)}d")
        elif kind < 0.6:
            lines.append(f"modified: {_noise_word(rng)}/{_noise_word(rng)}.py")
        else:
            lines.append(_filler(rng, rng.randint(1, 10)))
    return "\n".join(lines)


def _diff(rng: random.Random) -> str:
    path = f"{_noise_word(rng)}/{_noise_word(rng)}.py"
    lines = [f"diff --git a/{path} b/{path}", f"--- a/{path}", f"+++ b/{path}", f"@@ -{rng.randint(1, 90)},7 +9,8 @@"]
    for _ in range(rng.choice((3, 6, rng.randint(3, 60)))):
        code = rng.choice(
            (
                f"    {_noise_word(rng)} = {_noise_word(rng)}({rng.randint(0, 99)})",
                f"def {_noise_word(rng)}({_noise_word(rng)}):",
                f"    return {_noise_word(rng)} {rng.choice('+-*/')} {rng.randint(0, 12)}",
                f"    # {_filler(rng, rng.randint(2, 7))}",
                f"    if not {_noise_word(rng)}:",
                "",
            )
        )
        lines.append(rng.choice(" +-") + code)
    text = "\n".join(lines)
    return f"```diff\n{text}\n```" if rng.random() < 0.5 else text


def _any_call(rng: random.Random) -> str:
    topic = rng.choice(phrasebook.COMMANDS)
    command = topic.command.format(app=rng.choice(phrasebook.APPS), space=rng.choice(phrasebook.SPACES))
    if rng.random() < 0.2:
        command = _filler(rng, rng.randint(1, 8))
    return rng.choice((command, f'{{"command":"{command}"}}', f"Tool: shell\nCommand: {command}", f"`{command}`"))
