"""Baseline: the tables as they were when migrations began. Older ones are brought up to it, no row is lost."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Index, LargeBinary, MetaData, String, Table

from deployments.migrations.tables import bring_up

revision = "responses_0001"
down_revision = None
breaks_previous = False

metadata = MetaData()

responses = Table(
    "responses",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("response_id", String(128), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("background", Boolean, nullable=False),
    Column("previous_id", String(128)),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("beat_ms", BigInteger, nullable=False),
    Column("turn_bytes", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("frame", LargeBinary, nullable=False),
    Column("output", LargeBinary, nullable=False),
    Column("input", LargeBinary, nullable=False),
    Index("responses_of_tenant", "tenant", "expires_ms"),
    Index("responses_expiring", "expires_ms"),
)

totals = Table(
    "response_totals",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("responses", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)


def upgrade() -> None:
    """Create what is missing."""
    bring_up(op.get_bind(), metadata)


def downgrade() -> None:
    """Drop the tables, with all that is in them."""
    metadata.drop_all(op.get_bind())
