"""Backups on a real database: the way out, the way back, and everything that may go wrong."""

import gzip
import json
import os
{% if cookiecutter.database != "sqlite" %}
import re
{% endif %}
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
{% if cookiecutter.database != "sqlite" %}
from urllib.parse import quote
{% endif %}

import pytest
import sqlalchemy as sa
from rich.console import Console
from typer.testing import CliRunner

from app import backup
from app.backup import BackupConfig, create_backup, restore_backup, store, verify_backup
from app.backup import __main__ as command_line
from app.backup.engines import engine_for
from tests.backup import content
from tests.backup.conftest import ROOT, children, wait_until


def visible(config: BackupConfig) -> list[str]:
    """Return what somebody who looks for backups sees."""
    found = sorted(path.name for path in config.directory.iterdir())
    return [name for name in found if not name.startswith(".")]


def hidden_data(config: BackupConfig) -> list[str]:
    return [path.name for path in config.directory.glob(".*") if not path.name.endswith("lock")]


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def side_databases(config: BackupConfig) -> list[str]:
    names: list[str] = engine_for(config.url).others(config.url, "restore")
    return names


# --- round trip ---------------------------------------------------------------------------


def test_restore_brings_everything_back(config: BackupConfig, live: sa.Engine) -> None:
    before = content.read(live)
    made = create_backup(config)
    with live.begin() as conn:
        conn.execute(content.blobs.delete())
        conn.execute(content.audit.insert(), {"user_name": "later"})
    changed = content.read(live)

    done = restore_backup(config)

    live.dispose()
    assert content.read(live) == before
    assert content.works_on(live)
    assert done["warnings"] == []
    assert done["revision"] == made["revision"] == "0123abc"
    assert backup.old_databases(config) == [done["kept_as"]]
    assert side_databases(config) == []
    assert changed != before


def test_what_was_live_is_kept_until_dropped(
    config: BackupConfig, live: sa.Engine, connect: Callable[[str], sa.Engine]
) -> None:
    create_backup(config)
    with live.begin() as conn:
        conn.execute(content.audit.insert(), {"user_name": "later"})
    before = content.read(live)

    kept = restore_backup(config)["kept_as"]

    old = connect(sa.make_url(config.url).set(database=kept).render_as_string(hide_password=False))
    assert content.read(old) == before
    old.dispose()
    assert backup.drop_old(config) == [kept]
    assert backup.old_databases(config) == []


def test_native_tools_restore_it(
    config: BackupConfig,
    live: sa.Engine,
    dialect: ModuleType,
    new_url: Callable[[], str],
    connect: Callable[[str], sa.Engine],
) -> None:
    url = new_url()
    dialect.native_restore(Path(create_backup(config)["path"]), url)
    assert content.read(connect(url)) == content.read(live)
    assert content.works_on(connect(url))


def test_restore_where_nothing_is_left(
    config: BackupConfig, live: sa.Engine, dialect: ModuleType
) -> None:
    before = content.read(live)
    create_backup(config)
    live.dispose()
    dialect.drop_database(config.url)
    assert restore_backup(config)["kept_as"] is None
    assert content.read(live) == before


def test_restore_twice_with_connections_open(config: BackupConfig, live: sa.Engine) -> None:
    create_backup(config)
    with live.connect() as idle, live.connect() as other:
        idle.execute(sa.text("SELECT 1"))
        idle.rollback()
        other.execute(content.users.select()).fetchall()
        other.rollback()
        restore_backup(config)
        idle.invalidate()
        other.invalidate()
    live.dispose()
    assert content.works_on(live)
    restore_backup(config)


def test_restores_of_one_second_keep_what_each_replaced(
    config: BackupConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = store.now()
    monkeypatch.setattr(store, "now", lambda: moment)
    create_backup(config)
    kept = [restore_backup(config)["kept_as"] for _ in range(2)]
    assert sorted(kept) == backup.old_databases(config)
    assert len(set(kept)) == 2


def test_file_and_manifest(config: BackupConfig) -> None:
    made = create_backup(config)
    path = Path(made["path"])
    suffix = {% if cookiecutter.database == "sqlite" %}".sqlite3.gz"{% else %}".sql.gz"{% endif +%}
    name = engine_for(config.url).database_name(config.url)
    moment = datetime.fromisoformat(made["created_at"])
    assert path.name == f"{name}_backup_{moment:%Y%m%d_%H%M%S}{suffix}"
    assert {path.name, f"{path.name}.json"} == set(visible(config))
    for file in config.directory.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    plain = gzip.decompress(path.read_bytes())
    assert made["dump_size"] == len(plain)
    assert made["size"] == path.stat().st_size
    rows = {key.rpartition(".")[2].strip('"'): value for key, value in made["tables"].items()}
    assert rows["users"] == len(content.AWKWARD)
    assert rows["empty"] == 0
    assert sum(made["tables"].values()) == rows["blobs"] + rows["users"] * 2 + 5
    json.dumps(made)


def test_verify_leaves_only_its_mark(config: BackupConfig, live: sa.Engine) -> None:
    before = content.read(live)
    create_backup(config)
    assert backup.backup_status(config)["last_verified_age"] is None
    assert verify_backup(config)["verified_at"]
    status = backup.backup_status(config)
    assert 0 <= status["last_verified_age"] <= status["last_backup_age"] < 600
    assert content.read(live) == before
    assert side_databases(config) == backup.old_databases(config) == []


def test_delivered_twice_is_made_once(config: BackupConfig) -> None:
    first = create_backup(config, run_id="task-1")
    assert create_backup(config, run_id="task-1")["file"] == first["file"]
    assert create_backup(config, run_id="task-2")["file"] != first["file"]


def test_rows_written_during_the_dump_are_not_counted(
    config: BackupConfig, live: sa.Engine
) -> None:
    before = content.read(live)
    phases: list[str] = []

    def write(phase: str, done: int, total: int | None) -> None:
        if phase == "dump" and phase not in phases:
            with live.begin() as conn:
                conn.execute(content.audit.insert(), [{"user_name": str(n)} for n in range(1000)])
                conn.execute(content.users.insert(), {"name": "later"})
        phases.append(phase)

    create_backup(config, progress=write)
    assert content.read(live) != before
    restore_backup(config)
    live.dispose()
    assert content.read(live) == before


# --- faults: making a backup --------------------------------------------------------------


def fails(config: BackupConfig, error: type[Exception], match: str, **options: Any) -> None:
    """Check that a create fails, loudly, and leaves what was there and nothing else."""
    before = visible(config) if config.directory.is_dir() else []
    with pytest.raises(error, match=match):
        create_backup(config, **options)
    assert (visible(config) if config.directory.is_dir() else []) == before
    if config.directory.is_dir():
        assert hidden_data(config) == []


{% if cookiecutter.database != "sqlite" %}
def test_wrong_password(config: BackupConfig, dialect: ModuleType) -> None:
    create_backup(config)
    wrong = sa.make_url(config.url).set(password="wr0ng:secret")
    url = wrong.render_as_string(hide_password=False)
    fails(replace(config, url=url), backup.DatabaseError, "(?i)password|denied")
    with pytest.raises(backup.DatabaseError) as caught:
        create_backup(replace(config, url=url))
    assert "wr0ng" not in str(caught.value)


{% endif %}
def test_database_away(config: BackupConfig, dialect: ModuleType, free_port: int) -> None:
    create_backup(config)
    away = sa.make_url(config.url)
    away = away.set({% if cookiecutter.database == "sqlite" %}database="/nowhere/x.db"{% else %}port=free_port{% endif %})
    url = away.render_as_string(hide_password=False)
    with pytest.raises(backup.DatabaseError, match="(?i)connect|no .* file"):
        create_backup(replace(config, url=url))


def test_tool_missing(
    config: BackupConfig, dialect: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    fails(config, backup.ToolError, f"not installed.*{dialect.PACKAGE}")


{% if cookiecutter.database != "sqlite" %}
def test_tool_older_than_the_server(
    config: BackupConfig, dialect: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = dialect.old_version(config.url)
    for name in dialect.TOOL.split("|"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{name} {old}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    fails(config, backup.ToolError, f"older than the server.*{dialect.PACKAGE}")


{% endif %}
def test_tool_killed_half_way(config: BackupConfig, dialect: ModuleType) -> None:
    create_backup(config)
    servers = children(os.getpid())

    def kill(phase: str, done: int, total: int | None) -> None:
        for child in set(children(os.getpid())) - set(servers):
            os.kill(child, signal.SIGKILL)

    fails(
        config, backup.DatabaseError, f"({dialect.TOOL}) failed: killed by signal 9", progress=kill
    )


def test_own_process_killed_half_way(config: BackupConfig, stopped: Callable[..., Any]) -> None:
    first = create_backup(config)
    with stopped(config, "create_backup", "dump") as process:
        (tool,) = children(process.pid)
        process.kill()
    wait_until(lambda: not Path(f"/proc/{tool}").exists())
    assert visible(config) == [first["file"], f"{first['file']}.json"]
    assert [one["file"] for one in backup.list_backups(config)] == [first["file"]]
    create_backup(config)
    assert hidden_data(config) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small tmpfs cannot be mounted here: run as root to test a full disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_disk_full(config: BackupConfig, small_disk: Path) -> None:
    fails(replace(config, directory=small_disk), backup.StorageError, "the disk is full")


def test_read_only_folder(config: BackupConfig, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    fails(replace(config, directory=small_disk), backup.StorageError, "(?i)read-only")


def test_folder_cannot_be_made(config: BackupConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fails(replace(config, directory=tmp_path / "file" / "x"), backup.StorageError, "BACKUP_DIR")


def test_folder_removed_during_the_dump(config: BackupConfig) -> None:
    def remove(phase: str, done: int, total: int | None) -> None:
        if config.directory.is_dir():
            for path in config.directory.iterdir():
                path.unlink()
            config.directory.rmdir()

    fails(config, backup.StorageError, "was removed", progress=remove)


def test_two_at_once(config: BackupConfig, stopped: Callable[..., Any]) -> None:
    with stopped(config, "create_backup", "dump") as process:
        with pytest.raises(backup.BusyError, match="is running"):
            create_backup(config)
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(create_backup, config, wait=60)
            process.stdin.close()
            assert process.wait() == 0
            second.result()
    assert len(backup.list_backups(config)) == 2


{% if cookiecutter.database != "sqlite" %}
def test_password_is_seen_nowhere(
    config: BackupConfig, dialect: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    password = str(sa.make_url(config.url).password)
    lines: list[bytes] = []

    def look(phase: str, done: int, total: int | None) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(path.read_bytes())
            except OSError:  # ended meanwhile
                continue

    made = create_backup(config, progress=look)
    done = restore_backup(config, progress=look)
    shown = b"\n".join(lines)
    assert re.search(dialect.TOOL.encode(), shown)
    written = [path.read_bytes() for path in config.directory.glob("*.json")]
    output = "".join(capfd.readouterr())
    seen = [shown, *written, repr((made, done, config, output)).encode()]
    for form in (password, quote(password, safe="")):
        assert not any(form.encode() in text for text in seen)


{% endif %}
# --- faults: the clock and retention ------------------------------------------------------


def aged(config: BackupConfig, days: int) -> dict[str, Any]:
    """Make a backup under a clock that is `days` behind."""
    moment = datetime.now(UTC) - timedelta(days=days)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "now", lambda: moment)
        return create_backup(config)


def test_retention(config: BackupConfig) -> None:
    old, newer, newest = aged(config, 40), aged(config, 29), aged(config, 1)
    other = config.directory / old["file"].replace("_backup_", "_x_backup_")
    other.write_bytes(b"of another database")
    assert backup.prune_backups(config, 30) == [old["file"]]
    assert [one["file"] for one in backup.list_backups(config)] == [newest["file"], newer["file"]]
    assert other.exists()


def test_retention_keeps_the_newest_that_is_sound(config: BackupConfig) -> None:
    first, second, third = aged(config, 90), aged(config, 80), aged(config, 70)
    damage(Path(third["path"]))
    assert backup.prune_backups(config, 30) == [first["file"]]
    assert Path(second["path"]).exists()


def test_retention_after_the_clock_was_set_back(config: BackupConfig) -> None:
    first = create_backup(config)
    back = aged(config, 100)
    assert Path(back["path"]).exists()
    assert backup.backup_status(config)["last_backup"] == back["file"]
    assert backup.prune_backups(config, 30) == []
    after = create_backup(config, retention_days=30)
    assert after["pruned"] == [back["file"]]
    assert Path(first["path"]).exists()


def test_retention_only_after_a_success(config: BackupConfig, dialect: ModuleType) -> None:
    aged(config, 60)
    aged(config, 50)

    def stop(phase: str, done: int, total: int | None) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        create_backup(config, retention_days=1, progress=stop)
    assert len(backup.list_backups(config)) == 2


# --- faults: giving a bad file to restore -------------------------------------------------


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def replace_content(path: Path) -> None:
    path.write_bytes(gzip.compress(b"-- a dump of something else\n"))


def remove_manifest(path: Path) -> None:
    store.manifest_path(path).unlink()


def damage_manifest(path: Path) -> None:
    store.manifest_path(path).write_text("{}")


def of_another_engine(path: Path) -> None:
    store.write_manifest(path, replace(store.read_manifest(path), engine="oracle"))


def of_another_database(path: Path) -> None:
    store.write_manifest(path, replace(store.read_manifest(path), database="other"))


def with_other_counts(path: Path) -> None:
    manifest = store.read_manifest(path)
    tables = {name: rows + 1 for name, rows in manifest.tables.items()}
    store.write_manifest(path, replace(manifest, tables=tables))


def with_other_revision(path: Path) -> None:
    store.write_manifest(path, replace(store.read_manifest(path), revision="f00"))


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        damage,
        truncate,
        lengthen,
        replace_content,
        remove_manifest,
        damage_manifest,
        of_another_engine,
        of_another_database,
        with_other_counts,
        with_other_revision,
        remove,
    ],
)
def test_a_bad_file_is_refused(
    config: BackupConfig, live: sa.Engine, spoil: Callable[[Path], None]
) -> None:
    before = content.read(live)
    path = Path(create_backup(config)["path"])
    spoil(path)
    for function in (restore_backup, verify_backup):
        with pytest.raises(backup.InvalidBackupError):
            function(config, path)
    assert content.read(live) == before
    assert side_databases(config) == backup.old_databases(config) == []


def test_another_databases_backup_on_demand(
    config: BackupConfig, new_url: Callable[[], str], connect: Callable[[str], sa.Engine]
) -> None:
    path = Path(create_backup(config)["path"])
    target = replace(config, url=new_url())
    with pytest.raises(backup.InvalidBackupError, match="--foreign"):
        restore_backup(target, path)
    restore_backup(target, path, foreign=True)
    assert content.works_on(connect(target.url))


# --- faults: killed restores --------------------------------------------------------------


@pytest.mark.parametrize("phase", ["check", "restore", "compare", "swap"])
def test_restore_killed_half_way(
    config: BackupConfig, live: sa.Engine, stopped: Callable[..., Any], phase: str
) -> None:
    before = content.read(live)
    create_backup(config)
    with stopped(config, "restore_backup", phase) as process:
        tools = children(process.pid)
        process.kill()
    for tool in tools:
        wait_until(partial(is_gone, tool))
    assert content.read(live) == before
    assert len(store.good(config)) == 1
    verify_backup(config)
    assert side_databases(config) == backup.old_databases(config) == []


# --- the command line ---------------------------------------------------------------------


@pytest.fixture
def command(config: BackupConfig, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command in this process, on this test's database, without a terminal."""
    monkeypatch.setattr(command_line, "_config", lambda: config)
    monkeypatch.setattr(command_line, "screen", Console(stderr=True))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(command_line.app, list(arguments))

    return run


def test_command_line(config: BackupConfig, live: sa.Engine, command: Callable[..., Any]) -> None:
    made = command("create", "--json")
    assert made.exit_code == 0, made.output
    assert made.stderr.split() == ["dump", "check"]
    name = json.loads(made.stdout)["file"]
    (listed,) = json.loads(command("list", "--json").stdout)
    assert listed["file"] == name
    assert command("list").stdout.split("\t")[0] == name
    assert "restores" in command("verify").stdout
    refused = command("restore")
    assert (refused.exit_code, refused.stdout) == (8, "")
    assert "--yes" in refused.stderr
    with live.begin() as conn:
        conn.execute(content.blobs.delete())
    live.dispose()
    assert "is kept as" in command("restore", "--yes").stdout
    assert json.loads(command("restore", "--drop-old", "--yes", "--json").stdout)
    assert command("prune").stdout == "nothing to delete\n"
    assert command("restore", "--yes", "nothing.gz").exit_code == 6
    assert content.works_on(live)


def test_command_line_as_a_process(config: BackupConfig) -> None:
    env = {**os.environ, "DATABASE_URL": config.url, "BACKUP_DIR": str(config.directory)}
    argv = [sys.executable, "-m", "app.backup", "create"]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert Path(done.stdout.split()[0]).is_file()
    assert done.stderr.split() == ["dump", "check"]


def test_restore_asks_before_it_swaps(config: BackupConfig, live: sa.Engine) -> None:
    before = content.read(live)
    create_backup(config)
    asked: list[dict[str, Any]] = []

    def refuse(summary: dict[str, Any]) -> bool:
        asked.append(summary)
        return False

    with pytest.raises(backup.RefusedError):
        restore_backup(config, confirm=refuse)
    assert asked[0]["tables"]
    assert content.read(live) == before
    assert side_databases(config) == backup.old_databases(config) == []
