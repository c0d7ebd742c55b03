"""Tables of rollouts, and the statements on them. Times are milliseconds since the epoch.

A step is a row before it is a record in the log, and a record before it is in force: whoever comes next finds it, and
finishes it with the very content it was begun with. The number of a step is half of its key, so that of two who decide
at once one does. Every method is one transaction, and is durable when it returns.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, cast

from pydantic import TypeAdapter
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    and_,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deployments.errors import PartUnavailable
from deployments.migrations.runner import migrate
from deployments.rollout.judge import Pair, Tally
from deployments.rollouts import (
    FAMILIES,
    Artefact,
    Count,
    Draft,
    Metric,
    Plan,
    Rollout,
    Standing,
    State,
    Step,
    Target,
)
from deployments.store import writers_turn

_MOST_SHOWN: Final = 100
_metadata = MetaData()

_artefacts = Table(
    "rollout_artefacts",
    _metadata,
    Column("revision", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("target", String(128), nullable=False),
    Column("document", Text, nullable=False),
    Column("registered_ms", BigInteger, nullable=False),
    Column("registered_by", String(128), nullable=False),
)

_rollouts = Table(
    "rollouts",
    _metadata,
    Column("rollout_id", String(128), primary_key=True),
    Column("open_target", String(160), unique=True),  # null: it has ended, and another one may begin
    Column("plan", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("share", Integer, nullable=False),
    Column("held", Boolean, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
    Column("wanted", Text),  # a rollback that must come; null: none
)

_steps = Table(
    "rollout_steps",
    _metadata,
    Column("rollout_id", String(128), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("document", Text, nullable=False),
    Column("record", BigInteger),  # its place in the audit log; null: it is not in force
)

_counts = Table(
    "rollout_counts",
    _metadata,
    Column("rollout_id", String(128), primary_key=True),
    Column("share", Integer, primary_key=True),
    Column("candidate", Boolean, primary_key=True),
    Column("metric", String(16), primary_key=True),
    Column("trials", BigInteger, nullable=False),
    Column("bad", BigInteger, nullable=False),
)

_plan = TypeAdapter(Plan)
_step = TypeAdapter(Step)
_draft = TypeAdapter(Draft)
_artefact = TypeAdapter(Artefact)


class RolloutStore:
    """What the controller knows. `PartUnavailable` when the database does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._turn = writers_turn(engine)

    async def open(self) -> None:
        """Make the tables what this code needs."""
        await migrate(self._engine, "rollout")

    async def close(self) -> None:
        """Give the connections back."""
        await self._engine.dispose()

    async def register(self, revision: str, artefact: Artefact, at_ms: int, by: str) -> None:
        """Remember an artefact; what is known under its revision has its content, and now its path and signature."""
        document = _text(_artefact, artefact)
        async with self._writing() as connection:
            row = {"kind": artefact.kind.value, "target": artefact.target, "document": document}
            row |= {"registered_ms": at_ms, "registered_by": by}
            done = _upsert(self._engine, _artefacts, {"revision": revision}, row)
            await connection.execute(
                done.on_conflict_do_update(index_elements=["revision"], set_={"document": document})
            )

    async def artefact(self, revision: str) -> Artefact | None:
        """An artefact by its revision."""
        async with self._reading() as connection:
            found = (
                await connection.execute(select(_artefacts.c.document).where(_artefacts.c.revision == revision))
            ).scalar_one_or_none()
        return None if found is None else _artefact.validate_json(found)

    async def begin(self, plan: Plan, first: Step) -> bool:
        """A new rollout, its first step not in force; False when its id is taken, or its target has an open one."""
        row = {
            "rollout_id": plan.rollout_id,
            "open_target": f"{plan.kind.value}:{plan.target}",
            "plan": _text(_plan, plan),
            "created_ms": first.at_ms,
            **_standing_row(Standing(since_ms=first.at_ms)),
        }
        step = {"rollout_id": plan.rollout_id, "number": first.after.number, "document": _text(_step, first)}
        try:
            async with self._writing() as connection:
                await connection.execute(insert(_rollouts).values(row))
                await connection.execute(insert(_steps).values(step))
        except IntegrityError:
            return False
        return True

    async def get(self, rollout_id: str) -> Rollout | None:
        """A rollout as it stands."""
        found = await self._found(_rollouts.c.rollout_id == rollout_id, 1)
        return found[0] if found else None

    async def open_ones(self) -> Sequence[Rollout]:
        """The rollouts that have not ended."""
        return await self._found(_rollouts.c.open_target.is_not(None), None)

    async def recent(self) -> Sequence[Rollout]:
        """The newest rollouts, the newest first; one that has not ended is among them, however old it is."""
        found = await self._found(_rollouts.c.rollout_id.is_not(None), _MOST_SHOWN)
        shown = {each.plan.rollout_id for each in found}
        older = [each for each in await self.open_ones() if each.plan.rollout_id not in shown]
        return [*found[: max(0, _MOST_SHOWN - len(older))], *older]

    async def in_force(self) -> Sequence[Rollout]:
        """Those that say where traffic goes: the open ones, and of the others the last finished of each target."""
        ended = await self._found(_rollouts.c.state == State.FINISHED.value, None)
        latest = {_target(each): each for each in reversed(ended)}
        for each in await self.open_ones():
            latest[_target(each)] = each
        return [*latest.values()]

    async def want(self, rollout_id: str, draft: Draft) -> None:
        """Write down a rollback: from now on the candidate gets nothing. The first one stays."""
        wanted = _text(_draft, draft)
        change = update(_rollouts).where(
            _rollouts.c.rollout_id == rollout_id,
            _rollouts.c.wanted.is_(None),
            _rollouts.c.open_target.is_not(None),
        )
        async with self._writing() as connection:
            await connection.execute(change.values(wanted=wanted))

    async def propose(self, rollout_id: str, step: Step) -> bool:
        """Write down a step that is not in force; False when there is another one of its number."""
        row = {"rollout_id": rollout_id, "number": step.after.number, "document": _text(_step, step)}
        try:
            async with self._writing() as connection:
                await connection.execute(insert(_steps).values(row))
        except IntegrityError:
            return False
        return True

    async def apply(self, rollout_id: str, step: Step, record: int) -> None:
        """Put a step that is on record in force. Done again it changes nothing."""
        then = step.after
        values: dict[str, Any] = _standing_row(then)
        if then.state.final:
            values |= {"open_target": None, "wanted": None}
        async with self._writing() as connection:
            await connection.execute(
                update(_steps)
                .where(_steps.c.rollout_id == rollout_id, _steps.c.number == then.number)
                .values(record=record)
            )
            await connection.execute(
                update(_rollouts)
                .where(_rollouts.c.rollout_id == rollout_id, _rollouts.c.number == then.number - 1)
                .values(values)
            )

    async def history(self, rollout_id: str) -> Sequence[Step]:
        """The steps of a rollout, the oldest first."""
        query = select(_steps).where(_steps.c.rollout_id == rollout_id).order_by(_steps.c.number)
        async with self._reading() as connection:
            return [_read_step(row) for row in await connection.execute(query)]

    async def count(self, counts: Sequence[Count]) -> None:
        """Add to the counts of stages that are the present ones; of others nothing is added."""
        if not counts:
            return
        async with self._writing() as connection:
            present = await self._present(connection, {each.rollout_id for each in counts})
            # In one order, so that two who add at once wait for each other and not both.
            for each in sorted(counts, key=lambda one: (one.rollout_id, one.candidate, one.metric)):
                if present.get(each.rollout_id) != each.share:
                    continue
                key = {"rollout_id": each.rollout_id, "share": each.share}
                key |= {"candidate": each.candidate, "metric": each.metric.value}
                added = _upsert(self._engine, _counts, key, {"trials": each.trials, "bad": each.bad})
                await connection.execute(
                    added.on_conflict_do_update(
                        index_elements=[*key],
                        set_={"trials": _counts.c.trials + each.trials, "bad": _counts.c.bad + each.bad},
                    )
                )

    async def figures(self, rollout_id: str, share: int) -> dict[Metric, dict[bool, Tally]]:
        """What was counted in a stage, by metric, and whether it is of the candidate."""
        query = select(_counts).where(_counts.c.rollout_id == rollout_id, _counts.c.share == share)
        found: dict[Metric, dict[bool, Tally]] = {}
        async with self._reading() as connection:
            for row in await connection.execute(query):
                found.setdefault(Metric(row.metric), {})[bool(row.candidate)] = Tally(row.trials, row.bad)
        return found

    async def before_the_window(self, plan: Plan) -> dict[Metric, dict[bool, Tally]]:
        """The baseline's figures of the stage before all of the traffic; of a metric that has too few also older ones.

        Whoever promotes by hand leaves stages of which little is known.
        """
        found = {each.metric: Tally() for each in plan.rules.bounds}
        for share in (*reversed(plan.shares[:-1]), 0):
            lacking = [each for each in plan.rules.bounds if found[each.metric].trials < each.min_count]
            stage = await self.figures(plan.rollout_id, share) if lacking else {}
            for each in lacking:
                known, more = found[each.metric], stage.get(each.metric, {}).get(False, Tally())
                found[each.metric] = Tally(known.trials + more.trials, known.bad + more.bad)
        return {metric: {False: tally} for metric, tally in found.items()}

    async def _found(self, which: ColumnElement[bool], most: int | None) -> list[Rollout]:
        pending = and_(
            _steps.c.rollout_id == _rollouts.c.rollout_id,
            _steps.c.number == _rollouts.c.number + 1,
        )
        query = (
            select(_rollouts, _steps.c.document, _steps.c.record)
            .join(_steps, pending, isouter=True)
            .where(which)
            .order_by(_rollouts.c.created_ms.desc(), _rollouts.c.rollout_id)
            .limit(most)
        )
        async with self._reading() as connection:
            return [_read(row) for row in await connection.execute(query)]

    async def _present(self, connection: AsyncConnection, ids: set[str]) -> dict[str, int]:
        """The share of each rollout that is not on its way back."""
        query = select(_rollouts.c.rollout_id, _rollouts.c.share).where(
            _rollouts.c.rollout_id.in_(ids), _rollouts.c.open_target.is_not(None), _rollouts.c.wanted.is_(None)
        )
        return {row.rollout_id: row.share for row in await connection.execute(query)}

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[AsyncConnection, None]:
        async with self._turn:
            try:
                async with self._engine.begin() as connection:
                    yield connection
            except IntegrityError:
                raise
            except (SQLAlchemyError, OSError) as error:
                raise PartUnavailable("The store of rollouts does not answer.") from error

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[AsyncConnection, None]:
        try:
            async with self._engine.connect() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise PartUnavailable("The store of rollouts does not answer.") from error


def _target(rollout: Rollout) -> Target:
    return FAMILIES[rollout.plan.kind], rollout.plan.target


def pairs(stage: dict[Metric, dict[bool, Tally]], baseline: dict[Metric, dict[bool, Tally]]) -> dict[Metric, Pair]:
    """The candidate's figures of one stage beside the baseline's of another, or of the same."""
    return {
        metric: Pair(
            stage.get(metric, {}).get(True, Tally()),
            baseline.get(metric, {}).get(False, Tally()),
        )
        for metric in {*stage, *baseline}
    }


def _upsert(
    engine: AsyncEngine, table: Table, key: dict[str, Any], values: dict[str, Any]
) -> "sqlite.Insert | postgresql.Insert":
    row = {**key, **values}
    if engine.dialect.name == "postgresql":
        return postgresql.insert(table).values(row)
    return sqlite.insert(table).values(row)


def _text(adapter: "TypeAdapter[Any]", value: object) -> str:
    return adapter.dump_json(value).decode()


def _standing_row(standing: Standing) -> dict[str, object]:
    return {
        "number": standing.number,
        "state": standing.state.value,
        "share": standing.share,
        "held": standing.held,
        "since_ms": standing.since_ms,
    }


def _read(row: "Row[tuple[object, ...]]") -> Rollout:
    standing = Standing(row.number, State(row.state), row.share, bool(row.held), row.since_ms)
    wanted = None if row.wanted is None else _draft.validate_json(cast(str, row.wanted))
    pending = None if row.document is None else _read_step(row)
    return Rollout(_plan.validate_json(cast(str, row.plan)), standing, pending, wanted)


def _read_step(row: "Row[tuple[object, ...]]") -> Step:
    step = _step.validate_json(cast(str, row.document))
    return replace(step, record=row.record)
