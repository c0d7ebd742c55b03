"""Tables of the ledger. Integers only; times are milliseconds since the epoch, money is millionths of the currency.

A column that came later is nullable or has a default: rows of an earlier version can do without it, and so can an
earlier version that writes again.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    exists,
    func,
    text,
)

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
    Column("team", String(128)),
    Column("reserved_micros", BigInteger, nullable=False, server_default=text("0")),
    Column("leased_until_ms", BigInteger),  # null: a request has it
    Index("grants_open", "key_id", "settled_ms", "created_ms"),
    Index("grants_unsettled", "settled_ms", "created_ms"),
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
    Column("team", String(128)),
    Column("served_model", String(256)),  # null: no engine was asked, or the row is of an earlier version
    Column("tier", String(16)),  # null: a model that no policy chooses
    Column("reason", String(128)),
    Column("outcome", String(32)),
    Column("admitted_ms", BigInteger),  # the window that is charged; null: as settled
    Column("cost_micros", BigInteger),  # by the price table at that time; null: as 0
    Index("usage_by_tenant", "tenant", "admitted_ms"),
    Index("usage_by_key", "key_id", "admitted_ms"),
    Index("usage_by_place", "settled_ms", "grant_id"),
)

budgets = Table(
    "budgets",
    metadata,
    Column("budget_id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False, index=True),
    Column("team", String(128)),  # null, and no key: the whole tenant's
    Column("key_id", String(64)),
    Column("unit", String(16), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("window", String(16), nullable=False),
    Column("anchor_ms", BigInteger, nullable=False),
    Column("every_s", BigInteger),
    Column("alerts", String(64), nullable=False),  # percentages, with blanks between them
    Column("hard", Boolean, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

budget_alerts = Table(
    "budget_alerts",
    metadata,
    Column("budget_id", String(64), primary_key=True),
    Column("start_ms", BigInteger, primary_key=True),
    Column("percent", Integer, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
)

used_tokens = usage.c.input_tokens + usage.c.output_tokens
used_micros = func.coalesce(usage.c.cost_micros, 0)
# A settlement may be written before the row of its grant, which then stays open in its own table only.
is_open = grants.c.settled_ms.is_(None) & ~exists().where(usage.c.grant_id == grants.c.grant_id)
