"""One row per login in refresh_tokens

All logins end: users log in again.

Revision ID: 0001a
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001a"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
{% if cookiecutter.database == "mysql" %}
    # Addresses that differ only in accents or case are different.
    op.alter_column(
        "users",
        "email",
        type_=sa.String(length=254, collation="utf8mb4_bin"),
        existing_nullable=False,
    )
{% endif %}
    op.execute("DELETE FROM refresh_tokens")
    with op.batch_alter_table("refresh_tokens") as batch:
        batch.drop_constraint("uq_refresh_tokens_token_hash", type_="unique")
        batch.drop_index("ix_refresh_tokens_family")
        batch.drop_column("used_at")
        batch.alter_column("family", type_=sa.String(length=64), existing_nullable=False)
        batch.add_column(sa.Column("previous_hash", sa.String(length=64), nullable=True))
        batch.add_column(sa.Column("rotated_at", sa.DateTime(), nullable=True))
        batch.create_unique_constraint("uq_refresh_tokens_family", ["family"])


def downgrade() -> None:
    op.execute("DELETE FROM refresh_tokens")
    with op.batch_alter_table("refresh_tokens") as batch:
        batch.drop_constraint("uq_refresh_tokens_family", type_="unique")
        batch.drop_column("rotated_at")
        batch.drop_column("previous_hash")
        batch.alter_column("family", type_=sa.String(length=32), existing_nullable=False)
        batch.add_column(sa.Column("used_at", sa.DateTime(), nullable=True))
        batch.create_index("ix_refresh_tokens_family", ["family"])
        batch.create_unique_constraint("uq_refresh_tokens_token_hash", ["token_hash"])
{% if cookiecutter.database == "mysql" %}
    op.alter_column(
        "users",
        "email",
        type_=sa.String(length=254),
        existing_nullable=False,
    )
{% endif %}
