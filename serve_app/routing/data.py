"""Label sets for the router, read strictly: what is in the folder is what its MANIFEST.json says, or nothing is read.

Six public sets, gzip JSONL, one object per line, and label files of one's own. The product does not depend on them.
"""

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

MMLU: Final = "routellm_mmlu"
GSM8K: Final = "routellm_gsm8k"
MTBENCH: Final = "routellm_mtbench"
TIERS: Final = "uncommonroute_tiers"
INCIDENTS: Final = "openrca_incident_diagnosis"
CASES: Final = "vllm_sr_signal_cases"
PAIR_SETS: Final = (MMLU, GSM8K, MTBENCH)
"""The sets that hold the outcome of a weak and of a strong model."""

BESIDE_REPOSITORY: Final = Path("../shared/data/router")
"""Where the folder lies, seen from the root of the repository."""

_NOT_WORD: Final = re.compile(r"\W+")
_KEY_CHARS: Final = 12
_MOST_ERRORS: Final = 3
_TOP_SCORE: Final = 10.0


class DataRefused(Exception):
    """A folder, file or row that cannot be used; the message says which and what to do, and quotes no prompt."""


def key_of(prompt: str) -> str:
    """Twelve hex characters of the text without case, punctuation and blanks' width: equal for near-equal questions.

    The hash behind the ids of the public sets.
    """
    normalised = _NOT_WORD.sub(" ", prompt.lower()).strip()
    return hashlib.sha1(normalised.encode(), usedforsecurity=False).hexdigest()[:_KEY_CHARS]


@dataclass(frozen=True, slots=True)
class Labelled:
    """One prompt and how a weak and a strong model did on it.

    `weak_ok` and `strong_ok` are qualities in [0, 1]: 0 or 1 where `graded` is False, else a judge's score over 10.
    `key` is `key_of(prompt)`; rows of one key belong into one fold. `task` and `lang` are empty where the set has none.
    `weak_answer` is the weak model's text where the set keeps it.
    """

    row_id: str
    key: str
    set_name: str
    prompt: str
    weak_ok: float
    strong_ok: float
    task: str = ""
    lang: str = ""
    weak_answer: str | None = None
    graded: bool = False

    @property
    def helps(self) -> bool:
        """The strong model does better."""
        return self.strong_ok > self.weak_ok


@dataclass(frozen=True, slots=True)
class Tiered:
    """One prompt and its author's opinion of how much model it needs: SIMPLE, MEDIUM, COMPLEX or REASONING."""

    row_id: str
    key: str
    prompt: str
    tier: str
    category: str
    lang: str


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident-diagnosis task; `task` is task_1 to task_7, `agent_score` a published agent's, in [0, 1]."""

    row_id: str
    key: str
    prompt: str
    task: str
    system: str
    agent_score: float


@dataclass(frozen=True, slots=True)
class Case:
    """One conformance case of another router: `set_name` says which of its signals, `label` what it expects."""

    row_id: str
    key: str
    prompt: str
    set_name: str
    label: str


_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Text = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Source(_Strict):
    """One entry of MANIFEST.json: where a file comes from, under which licence, and what it must contain."""

    file: Annotated[str, Field(pattern=r"^[a-z0-9_]+\.jsonl\.gz$")]
    rows: Annotated[int, Field(ge=1)]
    bytes: Annotated[int, Field(ge=1)]
    sha256: _Sha256
    sha256_uncompressed: _Sha256
    origin: str
    commit: str
    path: str
    licence: str
    copyright: str
    columns: list[str]
    selection: str
    use: str
    note: str

    @property
    def name(self) -> str:
        """The set's name: the file without its endings."""
        return self.file.removesuffix(".jsonl.gz")


class _Row(_Strict):
    id: _Text
    prompt: _Text


class _PairRow(_Row):
    weak: _Text
    strong: _Text
    weak_ok: Annotated[int, Field(ge=0, le=1)]
    strong_ok: Annotated[int, Field(ge=0, le=1)]


class _MmluRow(_PairRow):
    task: _Text
    split: Literal["dev"]


class _Gsm8kRow(_PairRow):
    weak_answer: str


class _MtBenchRow(_Row):
    weak: _Text
    strong: _Text
    weak_score: Annotated[float, Field(ge=1, le=_TOP_SCORE)]
    strong_score: Annotated[float, Field(ge=1, le=_TOP_SCORE)]


class _TierRow(_Row):
    tier: Literal["SIMPLE", "MEDIUM", "COMPLEX", "REASONING"]
    category: _Text
    lang: _Text
    split: Literal["train"]


class _IncidentRow(_Row):
    task: Annotated[str, Field(pattern=r"^task_[1-7]$")]
    system: _Text
    agent_score: Annotated[float, Field(ge=0, le=1)]


class _CaseRow(_Row):
    set: _Text
    label: str


class _OwnRow(_Row):
    """A row of a label file of one's own."""

    weak_ok: Annotated[float, Field(ge=0, le=1)]
    strong_ok: Annotated[float, Field(ge=0, le=1)]
    task: str = ""
    lang: str = ""
    weak_answer: str | None = None
    weak: str = ""
    strong: str = ""

    @model_validator(mode="before")
    @classmethod
    def _truth_is_a_number(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        row = cast("dict[str, object]", values)
        return {name: float(value) if isinstance(value, bool) else value for name, value in row.items()}


_AnyRow = TypeVar("_AnyRow", bound=_Row)
_SOURCES: Final = TypeAdapter(list[Source])


@dataclass(frozen=True, slots=True)
class DataFolder:
    """A folder whose manifest has been read. Every reader checks both digests and every row of its file."""

    folder: Path
    sources: Mapping[str, Source]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The folder; `DataRefused` when it or its MANIFEST.json is missing or not what it should be."""
        file = folder / "MANIFEST.json"
        try:
            found = _SOURCES.validate_json(_read(file))
        except ValidationError as error:
            raise DataRefused(f"{file} is not a manifest: {_first(error)}.") from None
        sources = {source.name: source for source in found}
        if len(sources) != len(found):
            raise DataRefused(f"{file} names a file twice.")
        return cls(folder, sources)

    def labelled(self, name: str) -> tuple[Labelled, ...]:
        """The rows of one of `PAIR_SETS`, in file order."""
        if name == MMLU:
            return tuple(_pair(row, name, task=row.task) for row in self._rows(name, _MmluRow))
        if name == GSM8K:
            return tuple(_pair(row, name, answer=row.weak_answer) for row in self._rows(name, _Gsm8kRow))
        if name == MTBENCH:
            return tuple(_graded(row) for row in self._rows(name, _MtBenchRow))
        raise DataRefused(f"{name} holds no outcomes of two models; {', '.join(PAIR_SETS)} do.")

    def tiers(self) -> tuple[Tiered, ...]:
        """The rows of `TIERS`, in file order; some texts occur more than once."""
        return tuple(
            Tiered(row.id, key_of(row.prompt), row.prompt, row.tier, row.category, row.lang)
            for row in self._rows(TIERS, _TierRow)
        )

    def incidents(self) -> tuple[Incident, ...]:
        """The rows of `INCIDENTS`, in file order."""
        return tuple(
            Incident(row.id, key_of(row.prompt), row.prompt, row.task, row.system, row.agent_score)
            for row in self._rows(INCIDENTS, _IncidentRow)
        )

    def cases(self) -> tuple[Case, ...]:
        """The rows of `CASES`, in file order."""
        return tuple(
            Case(row.id, key_of(row.prompt), row.prompt, row.set, row.label) for row in self._rows(CASES, _CaseRow)
        )

    def _rows(self, name: str, shape: type[_AnyRow]) -> list[_AnyRow]:
        source = self.sources.get(name)
        if source is None:
            raise DataRefused(f"{self.folder / 'MANIFEST.json'} does not list {name}.")
        file = self.folder / source.file
        packed = _read(file)
        if hashlib.sha256(packed).hexdigest() != source.sha256:
            raise DataRefused(f"{file} is not the file that MANIFEST.json describes (SHA-256): copy the folder again.")
        content = _unpack(packed, file)
        if hashlib.sha256(content).hexdigest() != source.sha256_uncompressed:
            raise DataRefused(f"{file} does not hold the rows that MANIFEST.json describes (SHA-256 of the content).")
        rows = _parse(content, shape, file)
        if len(rows) != source.rows:
            raise DataRefused(f"{file} has {len(rows)} rows and MANIFEST.json says {source.rows}.")
        return rows


def read_own(file: Path, name: str | None = None) -> tuple[Labelled, ...]:
    """Labels of one's own: JSONL, plain or `.gz`, with id, prompt, weak_ok, strong_ok (0, 1 or a share; booleans too).

    Optional: task, lang, weak_answer, weak, strong. The set is called `name`, or as the file is.
    """
    content = _read(file)
    if file.suffix == ".gz":
        content = _unpack(content, file)
    called = name if name is not None else file.name.removesuffix(".gz").removesuffix(".jsonl")
    rows = _parse(content, _OwnRow, file)
    if not rows:
        raise DataRefused(f"{file} holds no row.")
    return tuple(
        Labelled(
            row_id=row.id,
            key=key_of(row.prompt),
            set_name=called,
            prompt=row.prompt,
            weak_ok=row.weak_ok,
            strong_ok=row.strong_ok,
            task=row.task,
            lang=row.lang,
            weak_answer=row.weak_answer,
            graded=not {row.weak_ok, row.strong_ok} <= {0.0, 1.0},
        )
        for row in rows
    )


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """Rows of pairwise different keys, in the order given, and what was left out.

    `repeated` rows have the key of an earlier row, `contradicting` of them with other outcomes; `shared` rows have the
    key of a row that was to be kept apart.
    """

    rows: tuple[Labelled, ...]
    repeated: int
    contradicting: int
    shared: int


def deduplicate(rows: Iterable[Labelled], apart_from: Iterable[str] = ()) -> Deduplicated:
    """The first row of each key, over all sets and splits given, without those whose key is in `apart_from`."""
    forbidden = frozenset(apart_from)
    kept: dict[str, Labelled] = {}
    repeated = contradicting = shared = 0
    for row in rows:
        earlier = kept.get(row.key)
        if row.key in forbidden:
            shared += 1
        elif earlier is None:
            kept[row.key] = row
        else:
            repeated += 1
            contradicting += (earlier.weak_ok, earlier.strong_ok) != (row.weak_ok, row.strong_ok)
    return Deduplicated(tuple(kept.values()), repeated, contradicting, shared)


def _pair(row: _PairRow, name: str, *, task: str = "", answer: str | None = None) -> Labelled:
    return Labelled(
        row_id=row.id,
        key=key_of(row.prompt),
        set_name=name,
        prompt=row.prompt,
        weak_ok=float(row.weak_ok),
        strong_ok=float(row.strong_ok),
        task=task,
        lang="en",
        weak_answer=answer,
    )


def _graded(row: _MtBenchRow) -> Labelled:
    return Labelled(
        row_id=row.id,
        key=key_of(row.prompt),
        set_name=MTBENCH,
        prompt=row.prompt,
        weak_ok=row.weak_score / _TOP_SCORE,
        strong_ok=row.strong_score / _TOP_SCORE,
        lang="en",
        graded=True,
    )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataRefused(f"cannot read {file}: {error.strerror}.") from error


def _unpack(packed: bytes, file: Path) -> bytes:
    try:
        return gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise DataRefused(f"{file} is not a whole gzip file.") from error


def _parse(content: bytes, shape: type[_AnyRow], file: Path) -> list[_AnyRow]:
    rows: list[_AnyRow] = []
    wrong: list[str] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            rows.append(shape.model_validate_json(line))
        except ValidationError as error:
            wrong.append(f"line {number}: {_first(error)}")
            if len(wrong) == _MOST_ERRORS:
                break
    if wrong:
        raise DataRefused(f"{file} cannot be used: {'; '.join(wrong)}.")
    return rows


def _first(error: ValidationError) -> str:
    """The first complaint without the input that caused it."""
    details = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in details["loc"])
    return f"{where}: {details['msg']}" if where else details["msg"]


def tasks_of(rows: Sequence[Labelled]) -> tuple[str, ...]:
    """The task types of the rows, sorted."""
    return tuple(sorted({row.task for row in rows}))
