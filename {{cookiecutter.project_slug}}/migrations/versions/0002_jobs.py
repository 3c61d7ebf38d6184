"""Jobs and the schedule

Revision ID: 0002
Revises: 0001a
"""

import sqlalchemy as sa
from alembic import op
{% if cookiecutter.database == "mysql" %}
from sqlalchemy.dialects import mysql
{% endif %}

revision = "0002"
down_revision = "0001a"
branch_labels = None
depends_on = None


def upgrade() -> None:
    timestamp = {% if cookiecutter.database == "mysql" %}mysql.DATETIME(fsp=6){% else %}sa.DateTime(){% endif +%}
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("task", sa.String(length=255), nullable=False),
        sa.Column("kwargs", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("owner_id", sa.Integer(), nullable=True),
        sa.Column("schedule", sa.String(length=255), nullable=True),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("series", sa.Integer(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("created_at", timestamp, nullable=False),
        sa.Column("due_at", timestamp, nullable=False),
        sa.Column("published_at", timestamp, nullable=True),
        sa.Column("started_at", timestamp, nullable=True),
        sa.Column("finished_at", timestamp, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_status", "jobs", ["status", "published_at", "due_at"])
    op.create_index("ix_jobs_owner_id", "jobs", ["owner_id", "created_at", "id"])
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"])
    op.create_table(
        "schedule_states",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("created_at", timestamp, nullable=False),
        sa.Column("last_run_at", timestamp, nullable=False),
        sa.Column("last_success_at", timestamp, nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_schedule_states"),
    )


def downgrade() -> None:
    op.drop_table("schedule_states")
    op.drop_table("jobs")
