"""The tables of the gate. Times are milliseconds.

What changes here needs a revision in `deployments/migrations/gate`.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text

from deployments.gate.states import OPEN

metadata = MetaData()
open_states = sorted(state.value for state in OPEN)

approvals = Table(
    "approvals",
    metadata,
    Column("approval_id", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("gate_call_id", String(64), nullable=False, unique=True),
    Column("fingerprint", String(64), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Index("approvals_listed", "tenant", "state", "created_ms"),
    Index("approvals_due", "state", "expires_ms"),
)
# At most one open request per call of a session, whoever opens it first.
Index(
    "approvals_one_open",
    approvals.c.subject,
    unique=True,
    sqlite_where=approvals.c.state.in_(open_states),
    postgresql_where=approvals.c.state.in_(open_states),
)

# One row per consumed permit: what became of the call that left under it.
consumptions = Table(
    "gate_consumptions",
    metadata,
    Column("approval_id", String(64), primary_key=True),
    Column("call_key", String(64), nullable=False, index=True),  # empty: the model gave no id
    Column("gate_call_id", String(64), nullable=False),
    Column("consumed_ms", BigInteger, nullable=False),
    Column("reported", String(16)),
    Column("reported_ms", BigInteger),
    Column("alerted_ms", BigInteger),
    Column("rollback", String(16)),
    Column("rollbacks", Integer, nullable=False),
    Index("gate_consumptions_due", "reported_ms", "alerted_ms", "consumed_ms"),
)

# Calls that were held, by the id under which a conversation would bring their result.
held_calls = Table(
    "gate_held_calls",
    metadata,
    Column("gate_call_id", String(64), primary_key=True),
    Column("call_key", String(64), nullable=False, index=True),
    Column("approval_id", String(64), nullable=False),
)

# Records that the log must get, written together with the change they tell of, and offered until it has them.
told = Table(
    "gate_told",
    metadata,
    Column("place", Integer, primary_key=True, autoincrement=True),
    Column("event_id", String(300), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("body", Text, nullable=False),  # empty once the log has it
    Index("gate_told_waiting", "state", "place"),
)

# One row per permit of one execution. `claim_key` finds the call that an unmodified client got in its stream.
permits = Table(
    "gate_permits",
    metadata,
    Column("permit_id", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("claim_key", String(64), nullable=False, index=True),
    Column("approval_id", String(64), index=True),
    Column("gate_call_id", String(64), nullable=False, unique=True),  # one call, one permit
    Column("action_digest", String(64), nullable=False),
    Column("audience", String(128)),  # null: nobody has claimed it yet
    Column("rollback_of", String(64)),
    Column("step", Integer),
    Column("issued_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("redeemed_ms", BigInteger),
    Column("alerted_ms", BigInteger),
    Column("body", Text, nullable=False),
    Index("gate_permits_due", "state", "redeemed_ms"),
)
# A step of a way back is executed by one runner at a time.
Index(
    "gate_permits_one_step",
    permits.c.rollback_of,
    permits.c.step,
    unique=True,
    sqlite_where=permits.c.state.in_(["ISSUED", "REDEEMED"]),
    postgresql_where=permits.c.state.in_(["ISSUED", "REDEEMED"]),
)

# Keys whose tool calls do not leave.
frozen_keys = Table(
    "gate_frozen_keys",
    metadata,
    Column("key_id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
)

# The newest review of a request by a model.
advice = Table(
    "gate_advice",
    metadata,
    Column("approval_id", String(64), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

# Messages to people and systems outside, offered until one takes them or their time is over.
notices = Table(
    "gate_notices",
    metadata,
    Column("place", Integer, primary_key=True, autoincrement=True),
    Column("notice_id", String(128), nullable=False),
    Column("receiver", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("next_ms", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Index("gate_notices_once", "notice_id", "receiver", unique=True),
    Index("gate_notices_due", "state", "next_ms"),
)

# What was announced last: the digest of the policy, and of the configuration.
announced = Table(
    "gate_announced",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("generation", Integer, nullable=False),
)
