"""Baseline: the tables as they were when migrations began. Older ones are brought up to it, no row is lost."""

from alembic import op
from sqlalchemy import BigInteger, Column, Float, Index, MetaData, String, Table, Text

from deployments.migrations.tables import bring_up

revision = "difficulty_0001"
down_revision = None
breaks_previous = False

metadata = MetaData()

sessions = Table(
    "route_sessions",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("session", String(64), primary_key=True),
    Column("seen_ms", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Index("route_sessions_idle", "seen_ms"),
)

decisions = Table(
    "route_decisions",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("route_id", String(64), primary_key=True),
    Column("session", String(64), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("explanation", Text, nullable=False),
    Index("route_decisions_old", "at_ms"),
)

# Beside the decision, not in it: whichever replica is told first writes, in any order.
cascades = Table(
    "route_cascades",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("route_id", String(64), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("report", Text, nullable=False),
    Index("route_cascades_old", "at_ms"),
)

feedback = Table(
    "route_feedback",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("event_id", String(128), primary_key=True),
    Column("route_id", String(64), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("source", String(16), nullable=False),
    Column("weight", Float, nullable=False),
    Column("score", Float),
    Column("at_ms", BigInteger, nullable=False),
    Index("route_feedback_of_route", "tenant", "route_id"),
    Index("route_feedback_of_key", "key_id", "at_ms"),
)

budgets = Table(
    "route_budgets",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("replica", String(64), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
)


def upgrade() -> None:
    """Create what is missing."""
    bring_up(op.get_bind(), metadata)


def downgrade() -> None:
    """Drop the tables, with all that is in them."""
    metadata.drop_all(op.get_bind())
