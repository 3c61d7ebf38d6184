"""Backups of a real database: the way out, the way back, and what may go wrong."""

{{ "import gzip\n" if cookiecutter.database == "sqlite" }}import json
import os
{{ "import shlex\n" if cookiecutter.database != "sqlite" }}import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pyrage
import pytest
import sqlalchemy as sa

from app.backup import BackupError, InvalidBackupError, create_backup, database, files, operations
from app.core.config.settings import PROJECT_ROOT, settings
{{ "from app.tasks.backup_database_task import backup_database_task, verify_backup_task\n" if cookiecutter.use_celery }}from tests.backup.conftest import TEXTS, delete_all, read
{{ "from tests.servers import find_program\n" if cookiecutter.database == "mysql" }}
# Stops in the middle of a backup.
STOPPING = """
import sys
from app.backup import create_backup, files
def stop(*_):
    print("reached", flush=True)
    sys.stdin.read()
files.copy = stop
create_backup()
"""


def python(*arguments: str) -> subprocess.Popen[str]:
    """Start Python with the settings of the test."""
    changes = {
        "DATABASE_URL": settings.database.DATABASE_URL,
        "BACKUP_DIR": str(settings.backup.BACKUP_DIR),
    }
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=PROJECT_ROOT,
        env={**os.environ, **changes},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@contextmanager
def stopped_backup() -> Iterator[subprocess.Popen[str]]:
    """A process that has started a backup, and waits."""
    with python("-c", STOPPING) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reached\n"
        yield process
        process.kill()


def restore(file: str | None = None, foreign: bool = False) -> str | None:
    return operations.restore_backup(file, lambda manifest: True, foreign=foreign)


def test_restore_brings_everything_back(live: sa.Engine) -> None:
    made = create_backup()
    rows = {table.rpartition(".")[2]: number for table, number in made.tables.items()}
    assert (made.revision, rows) == ("0123abc", {"alembic_version": 1, "notes": len(TEXTS)})
    for path in settings.backup.BACKUP_DIR.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    delete_all(live)
    old = restore()
    assert read(live) == TEXTS
    assert database.sides("old") == [old]
    assert operations.drop_old(lambda name: True) == [old]
    assert [*database.sides("old"), *database.sides("restore")] == []


def test_restores_when_the_live_database_is_gone(live: sa.Engine) -> None:
    create_backup()
    database.drop(str(live.url.database))
    assert restore() is None
    assert read(live) == TEXTS


def test_native_programs_restore_a_backup(live: sa.Engine) -> None:
    path, url = create_backup().path, live.url
    database.drop(str(url.database))
{% if cookiecutter.database == "sqlite" %}
    Path(str(url.database)).write_bytes(gzip.decompress(path.read_bytes()))
{% else %}
{% if cookiecutter.database == "postgresql" %}
    client = f"psql -q -X -v ON_ERROR_STOP=1 -h {url.host} -p {url.port} -U {url.username}"
    create = f"{client} -c 'CREATE DATABASE {url.database}' postgres"
{% else %}
    program = "mariadb" if find_program("mariadb") else "mysql"
    client = f"{program} --no-defaults -h {url.host} -P {url.port} -u {url.username}"
    create = f"{client} -e 'CREATE DATABASE {url.database} CHARACTER SET utf8mb4'"
{% endif %}
    env = {**os.environ, "{{ "PGPASSWORD" if cookiecutter.database == "postgresql" else "MYSQL_PWD" }}": str(url.password)}
    command = f"{create} && gunzip -c {shlex.quote(str(path))} | {client} {url.database}"
    subprocess.run(["bash", "-o", "pipefail", "-c", command], env=env, check=True)
{% endif %}
    assert read(live) == TEXTS


def test_killed_backup_leaves_nothing(live: sa.Engine) -> None:
    with stopped_backup() as process:
        process.kill()
    assert files.list_backups(database.name()) == []
    made = create_backup(wait=30)
    names = {path.name for path in settings.backup.BACKUP_DIR.iterdir()}
    assert names == {made.file, f"{made.file}.json"}


def test_unreachable_database_is_one_line(live: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    away = live.url.set({{ 'database="/nowhere/x.db"' if cookiecutter.database == "sqlite" else 'port=1, password="s3cret"' }})
    with monkeypatch.context() as patch:
        patch.setattr(settings.database, "DATABASE_URL", away.render_as_string(False))
        with pytest.raises(BackupError) as caught:
            create_backup()
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_retention_keeps_days_and_a_minimum_number(
    live: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [create_backup() for _ in range(3)]
    for manifest in made:
        edit(created_at=manifest.created_at - timedelta(days=40))(manifest.path)
    assert operations.prune_backups(30) == []
    monkeypatch.setattr(settings.backup, "BACKUP_KEEP_AT_LEAST", 2)
    assert operations.prune_backups(50) == []
    assert operations.prune_backups(30) == [made[0].file]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def edit(**values: object) -> Callable[[Path], None]:
    """Return a function that changes the manifest of a backup."""
    return lambda path: files.write_manifest(
        files.read_manifest(path.name).model_copy(update=values)
    )


@pytest.mark.parametrize(
    "spoil", [damage, truncate, edit(database="other"), edit(server="other"), edit(tables={})]
)
def test_bad_or_foreign_file_is_refused(live: sa.Engine, spoil: Callable[[Path], None]) -> None:
    path = create_backup().path
    spoil(path)
    with pytest.raises(InvalidBackupError):
        restore(path.name)
    assert read(live) == TEXTS
    assert database.sides("restore") == []


def test_another_servers_backup_is_restored_when_asked_for(live: sa.Engine) -> None:
    path = create_backup().path
    edit(server="other")(path)
    assert restore(path.name, foreign=True)


def test_restores_from_an_encrypted_copy_on_a_new_machine(
    live: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = pyrage.x25519.Identity.generate()
    (tmp_path / "key.txt").write_text(str(key))
    monkeypatch.setattr(settings.backup, "BACKUP_COPY_URL", f"file://{tmp_path}/copies")
    monkeypatch.setattr(settings.backup, "BACKUP_AGE_RECIPIENTS", [str(key.to_public())])
    with pytest.raises(BackupError, match="copies"):
        create_backup()  # The folder does not exist: the next run copies this backup too.
    (tmp_path / "copies").mkdir()
    made = create_backup()
    assert all(one.copied_at for one in files.list_backups(database.name()))
    encrypted = tmp_path / "copies" / f"{made.file}.age"
    assert pyrage.decrypt(encrypted.read_bytes(), [key]) == made.path.read_bytes()
    database.drop(str(live.url.database))
    monkeypatch.setattr(settings.backup, "BACKUP_DIR", tmp_path / "new machine")
    monkeypatch.setattr(settings.backup, "BACKUP_AGE_IDENTITY_FILE", tmp_path / "key.txt")
    restore()
    assert read(live) == TEXTS


def test_command_line(live: sa.Engine) -> None:
    def command(*arguments: str) -> tuple[int | None, str, str]:
        process = python("-m", "app.backup", *arguments)
        output, errors = process.communicate()
        return process.returncode, output, errors

    made = json.loads(command("create")[1])
    assert "restores" in command("verify")[1]
    (listed,) = json.loads(command("list", "--json")[1])
    assert listed["file"] == made["file"]
    assert listed["verified_at"]
    assert command("restore")[0] == 1  # It asks first.
    delete_all(live)
    assert "is kept as" in command("restore", "--yes")[1]
    assert read(live) == TEXTS
    code, _, errors = command("restore", "--yes", "nothing.gz")
    (line,) = (line for line in errors.splitlines() if not line.startswith(".env, line"))
    assert (code, "nothing.gz" in line) == (1, True)
    with stopped_backup():
        assert command("create")[0] == 3  # One at a time.
{% if cookiecutter.use_celery %}


def test_backup_is_made_and_verified(database: None) -> None:
    made = backup_database_task.apply(kwargs={"retention_days": 30}).get()
    json.dumps(made)
    assert {"alembic_version", "users"} <= {name.rpartition(".")[2] for name in made["tables"]}
    assert verify_backup_task.apply().get()["file"] == made["file"]
    assert files.read_manifest(made["file"]).verified_at


def test_a_store_that_fails_is_reported_without_another_dump(
    database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings.backup, "BACKUP_DIR", tmp_path / "backups")
    monkeypatch.setattr(settings.backup, "BACKUP_COPY_URL", f"file://{tmp_path}/nowhere")
    result = backup_database_task.apply()
    assert result.status == "FAILURE"
    with pytest.raises(BackupError, match="nowhere"):
        result.get()
    assert len(list((tmp_path / "backups").glob("*.gz"))) == 1


def test_reports_the_error_after_its_retries(
    database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def fail(_: object) -> None:
        attempts.append(1)
        raise BackupError("its own message")

    monkeypatch.setattr("app.backup.database.dump", fail)
    result = backup_database_task.apply()
    assert (result.status, len(attempts)) == ("FAILURE", 4)
    with pytest.raises(BackupError, match="its own message"):
        result.get()
{% endif %}
