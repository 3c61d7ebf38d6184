"""Jobs and the schedule

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
{% if cookiecutter.database == "mysql" %}
from sqlalchemy.dialects import mysql
{% endif %}

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    timestamp = {{ "mysql.DATETIME(fsp=6)" if cookiecutter.database == "mysql" else "sa.DateTime()" }}
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("task", sa.String(length=255), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("kwargs", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("owner_id", sa.Integer(), nullable=True),
        sa.Column("unique_key", sa.String(length=255), nullable=True),
        sa.Column("schedule", sa.String(length=255), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=True),
        sa.Column("created_at", timestamp, nullable=False),
        sa.Column("due_at", timestamp, nullable=False),
        sa.Column("resend_after", timestamp, nullable=True),
        sa.Column("started_at", timestamp, nullable=True),
        sa.Column("deadline", timestamp, nullable=True),
        sa.Column("finished_at", timestamp, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("unique_key", name="uq_jobs_unique_key"),
    )
    op.create_index("ix_jobs_status", "jobs", ["status", "resend_after", "due_at"])
    op.create_index("ix_jobs_owner_id", "jobs", ["owner_id", "created_at", "id"])
    op.create_index("ix_jobs_created_at", "jobs", ["created_at", "id"])
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"])
    op.create_table(
        "schedule_states",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("is_paused", sa.Boolean(), nullable=False),
        sa.Column("created_at", timestamp, nullable=False),
        sa.Column("last_run_at", timestamp, nullable=False),
        sa.Column("last_success_at", timestamp, nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_schedule_states"),
    )


def downgrade() -> None:
    op.drop_table("schedule_states")
    op.drop_table("jobs")
