"""The owner's migrations of a database that has rows, on real servers."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.conftest import Bake
from tests.harness import DATABASES, Stack, log_in, project_environment
from tests.run.updates import page_blocks

OFF = {"use_celery": False, "use_redis": False, "use_backup": False, "use_docker": False}

HEAD = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{down_revision}"
"""

TABLES = """
def upgrade() -> None:
    op.create_table(
        "notes",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("text", sa.String(length=100), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_notes_user_id_users", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_notes_text", "notes", ["text"])
    op.create_table(
        "tags",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("label", sa.String(length=50), nullable=False),
        sa.UniqueConstraint("label", name="uq_tags_label"),
    )
    op.create_table(
        "note_tags",
        sa.Column("note_id", sa.Integer(), primary_key=True),
        sa.Column("tag_id", sa.Integer(), primary_key=True),
        sa.ForeignKeyConstraint(
            ["note_id"], ["notes.id"], name="fk_note_tags_note_id_notes", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["tag_id"], ["tags.id"], name="fk_note_tags_tag_id_tags", ondelete="CASCADE"
        ),
    )


def downgrade() -> None:
    op.drop_table("note_tags")
    op.drop_table("tags")
    op.drop_table("notes")
"""

CHANGES = """
STATES = sa.Enum("draft", "done", name="state", native_enum=False, create_constraint=True)


def upgrade() -> None:
    # The parent of the notes and of the logins.
    with op.batch_alter_table("users") as batch:
        batch.alter_column("email", type_=sa.String(length=300), existing_nullable=False)
    with op.batch_alter_table("tags") as batch:
        batch.alter_column(
            "label",
            new_column_name="name",
            existing_type=sa.String(length=50),
            existing_nullable=False,
        )
    with op.batch_alter_table("notes") as batch:
        batch.add_column(sa.Column("state", STATES, nullable=False, server_default="draft"))
        batch.drop_index("ix_notes_text")


def downgrade() -> None:
    with op.batch_alter_table("notes") as batch:
        batch.create_index("ix_notes_text", ["text"])
        batch.drop_constraint("state", type_="check")
        batch.drop_column("state")
    with op.batch_alter_table("tags") as batch:
        batch.alter_column(
            "name",
            new_column_name="label",
            existing_type=sa.String(length=50),
            existing_nullable=False,
        )
    with op.batch_alter_table("users") as batch:
        batch.alter_column("email", type_=sa.String(length=254), existing_nullable=False)
"""

# Fails after it has copied a table and created one.
HALF = """
def upgrade() -> None:
    op.create_table("half", sa.Column("id", sa.Integer(), primary_key=True))
    with op.batch_alter_table("users") as batch:
        batch.alter_column("email", type_=sa.String(length=300), existing_nullable=False)
    op.execute("INSERT INTO notes (user_id, text) VALUES (1, 'half')")
    op.execute("INSERT INTO no_such_table VALUES (1)")
"""

# Deletes a parent: no foreign key deletes its children during a migration.
ORPHANS = """
def upgrade() -> None:
    op.execute("DELETE FROM tags WHERE label = 'red'")
"""

INSERT = """
INSERT INTO notes (user_id, text) VALUES (1, 'first');
INSERT INTO notes (user_id, text) VALUES (1, 'second');
INSERT INTO tags (label) VALUES ('red');
INSERT INTO tags (label) VALUES ('blue');
INSERT INTO note_tags (note_id, tag_id) SELECT notes.id, tags.id FROM notes, tags
"""

TAG = """
from sqlalchemy import Enum, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base


class Tag(Base):
    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True)
"""

SQL = """
import sys
from sqlalchemy import text
from app.core.database import session_scope
with session_scope() as session:
    for statement in sys.argv[1].split(";"):
        result = session.execute(text(statement))
        if result.returns_rows:
            print(sorted(tuple(row) for row in result))
"""


def sql(stack: Stack, statements: str) -> str:
    """Run SQL in a transaction of the application, and return the sorted rows as text."""
    return stack.python(SQL, statements).strip()


def rows(stack: Stack, label: str) -> list[str]:
    """Return what the database holds in the tables that the migrations alter or refer to."""
    tags = (
        f"SELECT text, {label} FROM note_tags JOIN notes ON notes.id = note_id"
        " JOIN tags ON tags.id = tag_id"
    )
    queries = ("SELECT user_id, text FROM notes", f"SELECT {label} FROM tags", tags)
    return sql(stack, "; ".join([*queries, "SELECT email FROM users"])).splitlines()


def user_id(client: httpx.Client) -> int:
    """Return the id of the user who is logged in."""
    return int(client.get("/users/me").raise_for_status().json()["id"])


def add_migration(project: Path, revision: str, body: str) -> None:
    """Write a migration that follows the newest one."""
    versions = project / "migrations/versions"
    (versions / f"{revision}.py").unlink(missing_ok=True)
    heads = subprocess.run(
        [project / ".venv/bin/alembic", "heads"],
        cwd=project,
        env=project_environment(project),
        capture_output=True,
        text=True,
        check=True,
    )
    head = HEAD.format(revision=revision, down_revision=heads.stdout.split()[0])
    (versions / f"{revision}.py").write_text(head + body)


def upgrade(stack: Stack) -> subprocess.CompletedProcess[str]:
    """Run ``alembic upgrade head``, which may fail."""
    return subprocess.run(
        [stack.project / ".venv/bin/alembic", "upgrade", "head"],
        cwd=stack.project,
        env=project_environment(stack.project, **stack.environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def migrate(installed: Bake, tmp_path: Path) -> Iterator[Callable[[str], Stack]]:
    """A function that starts a project whose owner has added the tables above."""
    stacks: list[Stack] = []

    def migrate(database: str) -> Stack:
        project = installed(database=database, **OFF)
        add_migration(project, "tables", TABLES)
        stack = Stack(project, tmp_path / database)
        stacks.append(stack.__enter__())
        return stack

    yield migrate
    for stack in stacks:
        stack.__exit__()
        for revision in ("tables", "changes", "half", "orphans", "ids", "newer"):
            (stack.project / f"migrations/versions/{revision}.py").unlink(missing_ok=True)


def test_is_ready_when_a_newer_version_has_migrated(migrate: Callable[[str], Stack]) -> None:
    """Old containers serve requests while new ones are started."""
    stack = migrate("sqlite")
    stack.run("alembic", "upgrade", "head")
    add_migration(stack.project, "newer", "def upgrade(): pass\n\n\ndef downgrade(): pass\n")
    api = stack.start_api()
    assert api.get("/health/ready").status_code == 503
    stack.run("alembic", "upgrade", "head")
    stack.kill("api")
    (stack.project / "migrations/versions/newer.py").unlink()
    assert stack.start_api().get("/health/ready").raise_for_status().json()["status"] == "ok"


@pytest.mark.parametrize("database", DATABASES)
def test_migrations_keep_the_rows(migrate: Callable[[str], Stack], database: str) -> None:
    """Parents of cascading foreign keys are altered and renamed, down and up again."""
    stack = migrate(database)
    user = log_in(stack.start_api(), "ada@example.com")
    sql(stack, INSERT)
    before = rows(stack, "label")
    assert before[0] == "[(1, 'first'), (1, 'second')]"
    assert before[2].count("(") == 4
    add_migration(stack.project, "changes", CHANGES)
    for _ in range(2):
        stack.run("alembic", "upgrade", "head")
        assert rows(stack, "name") == before
        assert sql(stack, "SELECT state FROM notes") == "[('draft',), ('draft',)]"
        assert user.get("/users/me").status_code == 200  # The login has not ended.
        stack.run("alembic", "downgrade", "-1")
        assert rows(stack, "label") == before
    # The constraints are still there.
    stack.run("alembic", "upgrade", "head")
    with pytest.raises(AssertionError, match="IntegrityError|OperationalError"):
        sql(stack, "UPDATE notes SET state = 'other'")
    sql(stack, "DELETE FROM tags WHERE name = 'red'; DELETE FROM notes WHERE text = 'second'")
    assert sql(stack, "SELECT text FROM notes JOIN note_tags ON id = note_id") == "[('first',)]"
    remaining = sql(stack, "DELETE FROM users; SELECT text FROM notes; SELECT name FROM tags")
    assert remaining == "[]\n[('blue',)]"
    assert user.get("/users/me").status_code == 401


def test_failed_migration_on_sqlite_leaves_nothing_behind(
    migrate: Callable[[str], Stack],
) -> None:
    stack = migrate("sqlite")
    log_in(stack.start_api(), "ada@example.com")
    sql(stack, INSERT)
    schema = "SELECT type, name, sql FROM sqlite_master"
    before = [sql(stack, schema), *rows(stack, "label")]
    add_migration(stack.project, "half", HALF)
    failed = upgrade(stack)
    assert failed.returncode != 0
    assert "no_such_table" in failed.stderr
    assert [sql(stack, schema), *rows(stack, "label")] == before
    add_migration(stack.project, "half", HALF.replace("no_such_table", "half"))
    stack.run("alembic", "upgrade", "head")
    assert sql(stack, "SELECT id FROM half") == "[(1,)]"
    assert "(1, 'half')" in sql(stack, "SELECT user_id, text FROM notes")


def test_migration_on_sqlite_that_leaves_orphans_is_refused(
    migrate: Callable[[str], Stack],
) -> None:
    stack = migrate("sqlite")
    log_in(stack.start_api(), "ada@example.com")
    sql(stack, INSERT)
    before = rows(stack, "label")
    add_migration(stack.project, "orphans", ORPHANS)
    refused = upgrade(stack)
    assert refused.returncode != 0
    message = refused.stderr.strip().splitlines()[-1]
    assert "orphans" in message
    assert "note_tags" in message
    assert "tags" in message
    assert "Traceback" not in refused.stderr
    assert rows(stack, "label") == before
    children = '    op.execute("DELETE FROM note_tags WHERE tag_id = 1")\n'
    add_migration(stack.project, "orphans", ORPHANS + children)
    stack.run("alembic", "upgrade", "head")
    assert sql(stack, "SELECT label FROM tags") == "[('blue',)]"


def test_migrations_on_sqlite_do_not_forget_the_ids_of_deleted_users(
    migrate: Callable[[str], Stack],
) -> None:
    """A copy of the users gives no id away again, although the highest ones were deleted."""
    stack = migrate("sqlite")
    api = stack.start_api()
    used = [user_id(log_in(api)), user_id(log_in(api))]
    sql(stack, "DELETE FROM users")
    add_migration(stack.project, "changes", CHANGES)
    stack.run("alembic", "upgrade", "head")
    assert user_id(log_in(api)) > max(used)


def test_migration_of_an_older_sqlite_project(migrate: Callable[[str], Stack]) -> None:
    """The migration of docs/updating.md: afterwards no id is given away again."""
    stack = migrate("sqlite")
    with closing(sqlite3.connect(stack.folder / "app.db")) as db, db:
        db.execute("CREATE TABLE jobs (owner_id)")
        db.execute("INSERT INTO jobs VALUES (7), (NULL)")
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, ' AUTOINCREMENT', '')")
    api = stack.start_api()
    kept = log_in(api, "ada@example.com")
    [block] = page_blocks("From 0.2 to 0.3", "python")
    code = f"def upgrade():\n{block}\n\ndef downgrade(): pass\n"
    add_migration(stack.project, "ids", code)
    stack.run("alembic", "upgrade", "head")
    assert kept.get("/users/me").status_code == 200
    assert sql(stack, "SELECT owner_id FROM jobs") == "[(None,)]"
    deleted = user_id(log_in(api, "bob@example.com"))
    sql(stack, "DELETE FROM users WHERE email = 'bob@example.com'")
    assert user_id(log_in(api)) > deleted


@pytest.mark.parametrize("database", DATABASES)
def test_upgrades_of_a_new_database_at_the_same_time(
    migrate: Callable[[str], Stack], database: str
) -> None:
    """Containers that start together: one migrates, the others wait for it."""
    stack = migrate(database)
    stack.run("alembic", "downgrade", "base")
    sql(stack, "DROP TABLE alembic_version")
    with ThreadPoolExecutor(6) as executor:
        ended = list(executor.map(upgrade, [stack] * 6))
    assert [(one.returncode, one.stderr[-2000:]) for one in ended if one.returncode] == []
    assert [one.stderr.count(" -> 0001, ") for one in ended].count(1) == 1
    assert rows(stack, "label") == ["[]"] * 4


def test_migration_by_hand_has_what_it_needs(migrate: Callable[[str], Stack]) -> None:
    """Its imports are kept, and Alembic finds the formatter where the environment is not on PATH."""
    stack = migrate("sqlite")
    stack.run("alembic", "revision", "-m", "by hand", "--rev-id=by_hand", PATH=os.defpath)
    [path] = stack.project.glob("migrations/versions/by_hand_*.py")
    column = 'op.add_column("tags", sa.Column("color", sa.String(7), server_default="red"))'
    path.write_text(path.read_text().replace("pass", column, 1))
    stack.run("alembic", "upgrade", "head")
    assert sql(stack, "SELECT color FROM tags") == "[]"
    path.unlink()


def test_enum_on_postgresql_is_refused_in_a_line(installed: Bake) -> None:
    """In a sub-package of models too. The type would stay when a generated migration goes down."""
    project = installed(database="postgresql", **OFF)
    model = project / "app/models/shop/tag.py"
    model.parent.mkdir()
    (model.parent / "__init__.py").touch()
    try:
        for column, refused in (('Enum("red", name="color")', True), ("String(16)", False)):
            model.write_text(TAG + f"    color: Mapped[str] = mapped_column({column})\n")
            command = [project / ".venv/bin/python", "-m", "pytest", "-q", "-k", "enums"]
            result = subprocess.run(
                [*command, "tests/test_migrations.py"],
                cwd=project,
                env=project_environment(project),
                capture_output=True,
                text=True,
                check=False,
            )
            assert result.returncode == refused, result.stdout
            assert ("AssertionError: tags.color: Enum breaks" in result.stdout) == refused
    finally:
        shutil.rmtree(model.parent)
