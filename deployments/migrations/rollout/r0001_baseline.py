"""Baseline: artefacts, rollouts, their steps, and what was counted of them."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, MetaData, String, Table, Text

from deployments.migrations.tables import bring_up

revision = "rollout_0001"
down_revision = None
breaks_previous = False

metadata = MetaData()

artefacts = Table(
    "rollout_artefacts",
    metadata,
    Column("revision", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("target", String(128), nullable=False),
    Column("document", Text, nullable=False),
    Column("registered_ms", BigInteger, nullable=False),
    Column("registered_by", String(128), nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("rollout_id", String(128), primary_key=True),
    Column("open_target", String(160), unique=True),
    Column("plan", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("share", Integer, nullable=False),
    Column("held", Boolean, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
    Column("wanted", Text),
)

steps = Table(
    "rollout_steps",
    metadata,
    Column("rollout_id", String(128), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("document", Text, nullable=False),
    Column("record", BigInteger),
)

counts = Table(
    "rollout_counts",
    metadata,
    Column("rollout_id", String(128), primary_key=True),
    Column("share", Integer, primary_key=True),
    Column("candidate", Boolean, primary_key=True),
    Column("metric", String(16), primary_key=True),
    Column("trials", BigInteger, nullable=False),
    Column("bad", BigInteger, nullable=False),
)


def upgrade() -> None:
    """Create what is missing."""
    bring_up(op.get_bind(), metadata)


def downgrade() -> None:
    """Drop the tables, with all that is in them."""
    metadata.drop_all(op.get_bind())
