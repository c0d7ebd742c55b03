"""Baseline: the tables as they were when migrations began. Older ones are brought up to it, no row is lost."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, String, Table, text

from deployments.migrations.tables import bring_up

revision = "tenancy_0001"
down_revision = None
breaks_previous = False

metadata = MetaData()

facts = Table(
    "tenancy_facts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("key_id", String(64), primary_key=True),
    Column("prefix", String(16), nullable=False, unique=True),
    Column("digest", LargeBinary, nullable=False),
    Column("tenant", String(128), nullable=False, index=True),
    Column("name", String(256), nullable=False),
    Column("person", String(256)),
    Column("scopes", String(256), nullable=False),
    Column("models", String),  # null: all models
    Column("gate_profile", String(32), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    Column("hold_s", Integer, nullable=False, server_default=text("0")),
    Column("budget_tokens", BigInteger),  # null: no budget
    Column("roles", String(4096), nullable=False, server_default=text("''")),  # one a line
    Column("team", String(128)),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("concurrent_requests", BigInteger),
    Column("rotated_ms", BigInteger),
    # The text before the last rotation, good for a while; null: there is none.
    Column("previous_prefix", String(16), index=True),
    Column("previous_digest", LargeBinary),
    Column("previous_until_ms", BigInteger),
)

grants = Table(
    "grants",
    metadata,
    Column("grant_id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("model", String(256), nullable=False),
    Column("reserved_tokens", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("settled_ms", BigInteger),
    Index("grants_open", "key_id", "settled_ms", "created_ms"),
)

usage = Table(
    "usage",
    metadata,
    Column("grant_id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False, index=True),
    Column("key_id", String(64), nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("model", String(256), nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("settled_ms", BigInteger, nullable=False),
)


def upgrade() -> None:
    """Create what is missing."""
    bring_up(op.get_bind(), metadata)


def downgrade() -> None:
    """Drop the tables, with all that is in them."""
    metadata.drop_all(op.get_bind())
