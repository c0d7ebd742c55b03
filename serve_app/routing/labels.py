"""Labels of one's own: prompts x models x efforts over an OpenAI-compatible URL -> right or not, tokens, time.

The result is JSONL, one line per job, written when the job is done: a run that was broken off goes on where it stopped,
and a finished one does nothing. A line holds no prompt, and no answer unless that is asked for. Failed calls leave no
line, so that the next run tries them again.
"""

import asyncio
import fcntl
import hashlib
import json
import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import httpx2
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from deployments.clock import Clock
from router.types import Effort
from serve_app.routing.checkers import Check, is_right
from serve_app.routing.data import DataRefused, key_of

_RETRIED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S: Final = 30.0
_JOB_CHARS: Final = 24

Size: TypeAlias = Literal["weak", "strong"]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Prompt(_Strict):
    """One line of the prompt file: what to ask and how to tell whether the answer is right."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    prompt: Annotated[str, Field(min_length=1)]
    check: Check
    task: str = ""
    lang: str = ""
    system: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None


class Label(_Strict):
    """One line of the result. `ms` is the whole call; tokens are as the server counted them, None where it did not."""

    job: Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
    id: str
    key: str
    size: Size
    model: str
    effort: Effort | None
    repeat: Annotated[int, Field(ge=0)]
    ok: bool
    finish: str
    prompt_tokens: int | None
    completion_tokens: int | None
    ms: Annotated[int, Field(ge=0)]
    at_ms: Annotated[int, Field(ge=0)]
    answer: str | None = None


_PROMPT: Final = TypeAdapter(Prompt)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `models` maps each size to a served name; `efforts` are sent as `reasoning_effort`, None omits it.

    `temperature` None leaves it to the server. Times are in seconds.
    """

    base_url: str
    models: Mapping[Size, str]
    efforts: tuple[Effort | None, ...] = (Effort.LOW, Effort.MEDIUM, Effort.HIGH)
    repeats: int = 1
    temperature: float | None = None
    max_tokens: int = 8192
    seed: int = 0
    concurrency: int = 8
    timeout_s: float = 600.0
    tries: int = 4
    first_wait_s: float = 1.0
    most_failures: int = 20
    keep_answers: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One call. `job` is a digest of everything that can change its result."""

    job: str
    prompt: Prompt
    size: Size
    model: str
    effort: Effort | None
    repeat: int


@dataclass(slots=True)
class Progress:
    """Counts of a run: `there` were finished before, `failed` maps a kind of failure to how often it ended a job."""

    jobs: int = 0
    there: int = 0
    done: int = 0
    right: int = 0
    failed: dict[str, int] = field(default_factory=dict[str, int])
    stopped: bool = False

    @property
    def failures(self) -> int:
        """Jobs that ended without a label."""
        return sum(self.failed.values())


def read_prompts(file: Path) -> tuple[Prompt, ...]:
    """The prompt file, JSONL; `DataRefused` names lines that cannot be used, and ids that occur twice."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise DataRefused(f"cannot read {file}: {error.strerror}.") from error
    prompts: list[Prompt] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                prompts.append(_PROMPT.validate_json(line))
            except ValidationError as error:
                first = error.errors(include_input=False, include_url=False, include_context=False)[0]
                where = ".".join(str(part) for part in first["loc"])
                raise DataRefused(f"{file} line {number}: {where}: {first['msg']}.") from None
    if not prompts:
        raise DataRefused(f"{file} holds no prompt.")
    ids = [prompt.id for prompt in prompts]
    if len(set(ids)) != len(ids):
        twice = next(each for each in ids if ids.count(each) > 1)
        raise DataRefused(f"{file}: the id {twice} occurs more than once.")
    return tuple(prompts)


def jobs_of(prompts: Sequence[Prompt], plan: Plan) -> Iterator[Job]:
    """All jobs, prompt by prompt, so that a run that is broken off leaves whole prompts."""
    for prompt in prompts:
        for repeat in range(plan.repeats):
            for size, model in sorted(plan.models.items(), reverse=True):
                for effort in plan.efforts:
                    yield Job(_digest(prompt, plan, model, effort, repeat), prompt, size, model, effort, repeat)


def read_labels(file: Path) -> tuple[Label, ...]:
    """The labels of a result file. A last line that was cut off by a crash is left out; any other damage is refused."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return ()
    whole, _, _ = content.rpartition(b"\n")
    labels: dict[str, Label] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            label = Label.model_validate_json(line)
        except ValidationError:
            raise DataRefused(f"{file} line {number} is not a label; move the file away to start anew.") from None
        labels.setdefault(label.job, label)
    return tuple(labels.values())


async def run(
    prompts: Sequence[Prompt],
    plan: Plan,
    out: Path,
    http: httpx2.AsyncClient,
    clock: Clock,
    sleep: Callable[[float], Any] = asyncio.sleep,
    shown: Callable[[Progress], None] | None = None,
) -> Progress:
    """Do every job that `out` does not hold yet; `http` carries the key and the timeout.

    Stops early when `plan.most_failures` jobs in a row failed: the server is down, or refuses all of them. Raises
    `DataRefused` when `out` is damaged or another run writes to it, `OSError` when it cannot be written.
    """
    progress = Progress()
    with _locked(out) as descriptor:
        there = {label.job for label in read_labels(out)}
        todo = [job for job in jobs_of(prompts, plan) if job.job not in there]
        progress.there = len({job.job for job in jobs_of(prompts, plan)} & there)
        progress.jobs = progress.there + len(todo)
        queue = iter(todo)
        in_a_row = 0
        broken: OSError | None = None

        async def work() -> None:
            nonlocal in_a_row, broken
            for job in queue:
                if progress.stopped:
                    return
                result = await _label(job, plan, http, clock, sleep)
                if isinstance(result, Label):
                    try:
                        # One write per line and no await in between: lines of two workers cannot mix.
                        os.write(descriptor, (result.model_dump_json() + "\n").encode())
                    except OSError as error:
                        broken = error
                        progress.stopped = True
                        return
                    in_a_row = 0
                    progress.done += 1
                    progress.right += result.ok
                else:
                    in_a_row += 1
                    progress.failed[result] = progress.failed.get(result, 0) + 1
                    progress.stopped = progress.stopped or in_a_row >= plan.most_failures
                if shown is not None:
                    shown(progress)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(plan.concurrency, len(todo))):
                group.create_task(work())
        if broken is not None:
            raise broken
        os.fsync(descriptor)
    return progress


def rows(
    prompts: Sequence[Prompt], labels: Sequence[Label], weak: Effort | None, strong: Effort | None
) -> list[dict[str, Any]]:
    """Training rows {id, prompt, task, lang, weak, strong, weak_ok, strong_ok} of one effort per size.

    Only prompts with both; repeats are averaged. `gatehouse router train` and `eval` read this form.
    """
    found: dict[tuple[str, Size, Effort | None], list[Label]] = {}
    for label in labels:
        found.setdefault((label.id, label.size, label.effort), []).append(label)
    made: list[dict[str, Any]] = []
    for prompt in prompts:
        low, high = found.get((prompt.id, "weak", weak)), found.get((prompt.id, "strong", strong))
        if low and high:
            row: dict[str, Any] = {
                "id": prompt.id,
                "prompt": prompt.prompt,
                "task": prompt.task,
                "lang": prompt.lang,
                "weak": low[0].model,
                "strong": high[0].model,
                "weak_ok": sum(label.ok for label in low) / len(low),
                "strong_ok": sum(label.ok for label in high) / len(high),
            }
            if low[0].answer is not None:
                row["weak_answer"] = low[0].answer
            made.append(row)
    return made


@asynccontextmanager
async def connect(
    plan: Plan, key: str | None, transport: httpx2.AsyncBaseTransport | None = None
) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client for `plan.base_url`, with the key as bearer token where there is one."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    limits = httpx2.Limits(max_connections=plan.concurrency)
    async with httpx2.AsyncClient(
        base_url=plan.base_url.rstrip("/") + "/",
        headers=headers,
        timeout=plan.timeout_s,
        limits=limits,
        transport=transport,
    ) as http:
        yield http


def _digest(prompt: Prompt, plan: Plan, model: str, effort: Effort | None, repeat: int) -> str:
    what = [
        prompt.id, prompt.prompt, prompt.system, prompt.check.model_dump(mode="json", exclude_unset=True), model,
        effort, repeat, plan.temperature, prompt.max_tokens or plan.max_tokens, plan.seed,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:_JOB_CHARS]


def _body(job: Job, plan: Plan) -> dict[str, Any]:
    messages = [{"role": "user", "content": job.prompt.prompt}]
    if job.prompt.system is not None:
        messages.insert(0, {"role": "system", "content": job.prompt.system})
    body: dict[str, Any] = {
        "model": job.model,
        "messages": messages,
        "max_tokens": job.prompt.max_tokens or plan.max_tokens,
        "seed": plan.seed + job.repeat,
        "stream": False,
    }
    if job.effort is not None:
        body["reasoning_effort"] = job.effort.value
    if plan.temperature is not None:
        body["temperature"] = plan.temperature
    return body


async def _label(
    job: Job, plan: Plan, http: httpx2.AsyncClient, clock: Clock, sleep: Callable[[float], Any]
) -> Label | str:
    """The label of a job, or the kind of failure that its last try ended with."""
    failure = "untried"
    for number in range(plan.tries):
        if number:
            await sleep(min(plan.first_wait_s * 2 ** (number - 1), _LONGEST_WAIT_S))
        began = clock.monotonic_s()
        try:
            reply = await http.post("chat/completions", json=_body(job, plan))
        except httpx2.TimeoutException:
            failure = "timeout"
            continue
        except httpx2.TransportError:
            failure = "unreachable"
            continue
        ms = round((clock.monotonic_s() - began) * 1000)
        if reply.status_code == 200:
            read = _read_reply(reply)
            if isinstance(read, str):
                return read
            return _made(job, plan, read, ms, clock.now_ms())
        failure = f"http_{reply.status_code}"
        if reply.status_code not in _RETRIED:
            break
    return failure


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Reply(BaseModel):
    """What we read of a chat completion; a server may add to it."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


def _read_reply(reply: httpx2.Response) -> _Reply | str:
    try:
        return _Reply.model_validate_json(reply.content)
    except ValidationError:
        return "not_a_chat_completion"


def _made(job: Job, plan: Plan, reply: _Reply, ms: int, at_ms: int) -> Label:
    choice = reply.choices[0]
    answer = choice.message.content or ""
    usage = reply.usage or _Usage()
    return Label(
        job=job.job,
        id=job.prompt.id,
        key=key_of(job.prompt.prompt),
        size=job.size,
        model=job.model,
        effort=job.effort,
        repeat=job.repeat,
        # An answer that was cut off at the limit of tokens is a failure of the arm, even where it looks right.
        ok=choice.finish_reason != "length" and is_right(job.prompt.check, answer),
        finish=choice.finish_reason or "",
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        ms=max(ms, 0),
        at_ms=at_ms,
        answer=answer if plan.keep_answers else None,
    )


@contextmanager
def _locked(out: Path) -> Generator[int]:
    """A descriptor that appends to `out`, whose cut-off last line has been removed; nobody else may hold it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataRefused(f"another run writes to {out}.") from None
        content = out.read_bytes()
        os.ftruncate(descriptor, content.rfind(b"\n") + 1)
        yield descriptor
    finally:
        os.close(descriptor)
