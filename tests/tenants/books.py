"""What the database says was charged, read past the ledger."""

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import create_engine, func, select
from sqlalchemy.engine import make_url

from deployments.tenancy.tables import grants, usage


@dataclass(frozen=True)
class Row:
    """A line of usage, and what had been set aside for it; None when the ledger was killed before it wrote that."""

    grant_id: str
    request_id: str
    team: str | None
    key_id: str
    input_tokens: int
    output_tokens: int
    estimated: bool
    outcome: str | None
    cost_micros: int
    reserved_tokens: int | None
    reserved_micros: int | None

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def is_lost(self) -> bool:
        """True for what nobody settled."""
        return self.outcome == "lost"


class Books:
    """The tables of usage and grants."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            parsed = parsed.set(drivername="sqlite")
        self._engine = create_engine(parsed, pool_pre_ping=True)

    def close(self) -> None:
        self._engine.dispose()

    def rows(self, tenant: str) -> list[Row]:
        """Everything that a tenant was charged."""
        columns = [usage.c[name] for name in Row.__dataclass_fields__ if not name.startswith("reserved")]
        query = (
            select(*columns, grants.c.reserved_tokens, grants.c.reserved_micros)
            .join(grants, grants.c.grant_id == usage.c.grant_id, isouter=True)
            .where(usage.c.tenant == tenant)
        )
        with self._engine.connect() as connection:
            return [Row(*row) for row in connection.execute(query)]

    def by_request(self, tenant: str) -> dict[str, list[Row]]:
        """The same by the id of the client's request; both attempts of a cascade belong to one."""
        found: defaultdict[str, list[Row]] = defaultdict(list)
        for row in self.rows(tenant):
            found[row.request_id.removesuffix("-2")].append(row)
        return dict(found)

    def open(self, tenant: str) -> int:
        """Grants of a tenant of which nobody has said what became of them."""
        query = (
            select(func.count())
            .select_from(grants.outerjoin(usage, usage.c.grant_id == grants.c.grant_id))
            .where(grants.c.tenant == tenant, usage.c.grant_id.is_(None))
        )
        with self._engine.connect() as connection:
            return connection.execute(query).scalar_one()
