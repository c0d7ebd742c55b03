"""Budgets, and usage with what served it and what it cost.

Only adds: the version before goes on, and charges no money. What is there already stays: for a while, starts made these
columns without a revision.
"""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, String, inspect, text

revision = "tenancy_0002"
down_revision = "tenancy_0001"
breaks_previous = False

_INDEXES = {
    "grants_unsettled": ("grants", ["settled_ms", "created_ms"]),
    "usage_by_tenant": ("usage", ["tenant", "admitted_ms"]),
    "usage_by_key": ("usage", ["key_id", "admitted_ms"]),
    "usage_by_place": ("usage", ["settled_ms", "grant_id"]),
    "ix_budgets_tenant": ("budgets", ["tenant"]),
}


def _columns() -> dict[str, list[Column[object]]]:
    return {
        "grants": [
            Column("team", String(128)),
            Column("reserved_micros", BigInteger, nullable=False, server_default=text("0")),
            Column("leased_until_ms", BigInteger),
        ],
        "usage": [
            Column("team", String(128)),
            Column("served_model", String(256)),
            Column("tier", String(16)),
            Column("reason", String(128)),
            Column("outcome", String(32)),
            Column("admitted_ms", BigInteger),
            Column("cost_micros", BigInteger),
        ],
    }


def upgrade() -> None:
    """Add columns, tables and indexes."""
    inspector = inspect(op.get_bind())
    for table, columns in _columns().items():
        present = {column["name"] for column in inspector.get_columns(table)}
        for column in columns:
            if column.name not in present:
                op.add_column(table, column)
    op.create_table(
        "budgets",
        Column("budget_id", String(64), primary_key=True),
        Column("tenant", String(128), nullable=False),
        Column("team", String(128)),
        Column("key_id", String(64)),
        Column("unit", String(16), nullable=False),
        Column("amount", BigInteger, nullable=False),
        Column("window", String(16), nullable=False),
        Column("anchor_ms", BigInteger, nullable=False),
        Column("every_s", BigInteger),
        Column("alerts", String(64), nullable=False),
        Column("hard", Boolean, nullable=False),
        Column("created_ms", BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "budget_alerts",
        Column("budget_id", String(64), primary_key=True),
        Column("start_ms", BigInteger, primary_key=True),
        Column("percent", Integer, primary_key=True),
        Column("at_ms", BigInteger, nullable=False),
        if_not_exists=True,
    )
    for name, (table, columns) in _INDEXES.items():
        op.create_index(name, table, columns, if_not_exists=True)


def downgrade() -> None:
    """Drop them. Budgets, costs and what served a request are lost; tokens stay charged."""
    for name, (table, _) in reversed(_INDEXES.items()):
        op.drop_index(name, table)
    op.drop_table("budget_alerts")
    op.drop_table("budgets")
    for table, columns in _columns().items():
        with op.batch_alter_table(table) as batch:
            for column in columns:
                batch.drop_column(column.name)
