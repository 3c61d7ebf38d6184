"""Backups of a real database: the way out, the way back, and what may go wrong."""

import gzip
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyrage
import pytest
import sqlalchemy as sa

from app import backup
from app.backup import BackupConfig, create_backup, folder, restore_backup, verify_backup
from app.backup import {{ cookiecutter.database }} as engine
from tests.backup import content
from tests.backup import dialect_{{ cookiecutter.database }} as dialect
from tests.backup.conftest import ROOT


def files(config: BackupConfig) -> list[str]:
    """Return all files of the backup folder."""
    return sorted(path.name for path in config.directory.iterdir())


def side_databases(config: BackupConfig) -> list[str]:
    """Return the databases that verifying and restoring made."""
    return [*engine.side_databases(config.url, "restore"), *backup.old_databases(config)]


def test_restore_brings_everything_back(
    config: BackupConfig, live: sa.Engine, connect: Callable[[str], sa.Engine]
) -> None:
    before = content.read(live)
    made = create_backup(config)
    with live.begin() as conn:
        conn.execute(content.blobs.delete())
    changed = content.read(live)
    live.dispose()

    done = restore_backup(config)

    assert content.read(live) == before
    assert content.works_on(live)
    assert done["warnings"] == []
    assert done["revision"] == made["revision"] == "0123abc"
    kept = str(done["kept_as"])
    assert side_databases(config) == [kept]
    old = connect(sa.make_url(config.url).set(database=kept).render_as_string(hide_password=False))
    assert content.read(old) == changed
    old.dispose()
    assert backup.drop_old(config) == [kept]
    assert side_databases(config) == []


def test_native_tools_restore_a_backup(
    config: BackupConfig,
    live: sa.Engine,
    new_url: Callable[[], str],
    connect: Callable[[str], sa.Engine],
) -> None:
    url = new_url()
    dialect.native_restore(Path(create_backup(config)["path"]), url)
    assert content.read(connect(url)) == content.read(live)
    assert content.works_on(connect(url))


def test_restores_when_the_live_database_is_gone(config: BackupConfig, live: sa.Engine) -> None:
    before = content.read(live)
    create_backup(config)
    live.dispose()
    dialect.drop_database(config.url)
    assert restore_backup(config)["kept_as"] is None
    assert content.read(live) == before


def test_file_and_manifest_describe_the_dump(config: BackupConfig) -> None:
    made = create_backup(config)
    path = Path(made["path"])
    assert files(config) == [path.name, f"{path.name}.json"]
    assert path.name.startswith(f"{engine.database_name(config.url)}_backup_")
    for file in config.directory.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made["dump_size"] == len(gzip.decompress(path.read_bytes()))
    rows = {name.rpartition(".")[2].strip('"'): n for name, n in made["tables"].items()}
    assert (rows["users"], rows["empty"]) == (len(content.AWKWARD), 0)
    json.dumps(made)


def test_verify_changes_nothing_but_its_mark(config: BackupConfig, live: sa.Engine) -> None:
    before = content.read(live)
    create_backup(config)
    assert backup.backup_status(config)["last_verified_age"] is None
    assert verify_backup(config)["verified_at"]
    status = backup.backup_status(config)
    assert 0 <= status["last_verified_age"] <= status["last_backup_age"] < 600
    assert content.read(live) == before
    assert side_databases(config) == []


def test_a_second_run_with_the_same_id_returns_the_first_backup(config: BackupConfig) -> None:
    first = create_backup(config, run_id="task-1")
    assert create_backup(config, run_id="task-1")["file"] == first["file"]
    assert create_backup(config, run_id="task-2")["file"] != first["file"]


def test_a_killed_backup_leaves_nothing(config: BackupConfig, stopped: Callable[..., Any]) -> None:
    with stopped(config, "create_backup", "dump") as process:
        process.kill()
    assert backup.list_backups(config) == []
    create_backup(config, wait=30)
    assert len(files(config)) == 2


def test_two_at_once_is_refused(config: BackupConfig, stopped: Callable[..., Any]) -> None:
    elsewhere = replace(config, directory=config.directory.with_name("elsewhere"))
    with stopped(config, "create_backup", "dump"), pytest.raises(backup.BusyError):
        create_backup(elsewhere)


def test_an_unreachable_database_is_reported(config: BackupConfig) -> None:
    url = sa.make_url(config.url).set({% if cookiecutter.database == "sqlite" %}database="/nowhere/x.db"{% else %}port=1, password="s3cret"{% endif %})
    away = replace(config, url=url.render_as_string(hide_password=False))
    with pytest.raises(backup.DatabaseError) as caught:
        create_backup(away)
    assert "s3cret" not in str(caught.value)


def aged(config: BackupConfig, days: int) -> str:
    """Make a backup that is so many days old; return its file name."""
    made = create_backup(config)
    folder.update_manifest(Path(made["path"]), created_at=folder.now() - timedelta(days=days))
    return str(made["file"])


def test_retention_keeps_days_and_a_minimum_number(config: BackupConfig) -> None:
    first, second, third = (aged(config, days) for days in (50, 40, 35))
    other = config.directory / first.replace("_backup_", "_x_backup_")
    other.write_bytes(b"of another database")
    assert backup.prune_backups(config, 30) == []
    assert backup.prune_backups(replace(config, keep_at_least=2), 30) == [first]
    assert {second, third, other.name} <= set(files(config))


def test_retention_keeps_the_newest_sound_backup(config: BackupConfig) -> None:
    first, second, third = (aged(config, days) for days in (50, 40, 35))
    damage(config.directory / third)
    assert backup.prune_backups(replace(config, keep_at_least=1), 30) == [first]
    assert second in files(config)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def replace_content(path: Path) -> None:
    path.write_bytes(gzip.compress(b"-- a dump of something else\n"))
    data = path.read_bytes()
    folder.update_manifest(path, size=len(data))


def remove_manifest(path: Path) -> None:
    folder.manifest_path(path).unlink()


def damage_manifest(path: Path) -> None:
    folder.manifest_path(path).write_text('{"created_at": 7, "tables": []}')


def change(**values: object) -> Callable[[Path], None]:
    """Return a function that changes the manifest of a backup."""
    return lambda path: folder.update_manifest(path, **values)


@pytest.mark.parametrize(
    "spoil",
    [
        damage,
        truncate,
        replace_content,
        remove_manifest,
        damage_manifest,
        pytest.param(change(file="../other"), id="of another file"),
        pytest.param(change(database="other"), id="of another database"),
        pytest.param(change(project="other"), id="of another project"),
        pytest.param(change(tables={"users": 0}), id="with other counts"),
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
    assert side_databases(config) == []


def test_a_malformed_manifest_stops_nothing(config: BackupConfig) -> None:
    damage_manifest(Path(create_backup(config)["path"]))
    assert backup.backup_status(config)["backups"] == 0
    made = create_backup(config, retention_days=1)
    newest, broken = backup.list_backups(config)
    assert (newest["file"], newest["problem"]) == (made["file"], None)
    assert "damaged" in broken["problem"]


def test_another_servers_backup_is_not_taken_for_ours(config: BackupConfig) -> None:
    ours = create_backup(config)
    foreign = Path(create_backup(config)["path"])
    folder.update_manifest(foreign, server="another")
    assert restore_backup(config)["file"] == ours["file"]
    with pytest.raises(backup.RefusedError, match="--foreign"):
        restore_backup(config, foreign)
    assert restore_backup(config, foreign, foreign=True)["file"] == foreign.name


def test_restores_from_an_encrypted_copy_on_a_new_machine(
    config: BackupConfig, live: sa.Engine, tmp_path: Path
) -> None:
    (tmp_path / "copies").mkdir()
    key = pyrage.x25519.Identity.generate()
    (tmp_path / "key.txt").write_text(str(key))
    config = replace(
        config, copy_url=f"file://{tmp_path}/copies", age_recipients=(str(key.to_public()),)
    )
    before = content.read(live)
    made = create_backup(config)
    assert backup.list_backups(config)[0]["places"] == ["local", "copy"]
    assert backup.backup_status(config)["last_copy_age"] < 600
    encrypted = (tmp_path / "copies" / f"{made['file']}.age").read_bytes()
    assert pyrage.decrypt(encrypted, [key]) == Path(made["path"]).read_bytes()
    live.dispose()
    dialect.drop_database(config.url)

    machine = replace(config, directory=tmp_path / "new", age_identity_file=tmp_path / "key.txt")
    assert restore_backup(machine)["file"] == made["file"]

    assert content.read(live) == before


def test_a_failed_copy_keeps_the_backup_and_is_repeated(
    config: BackupConfig, tmp_path: Path
) -> None:
    (tmp_path / "copies").write_text("not a folder")
    config = replace(config, copy_url=f"file://{tmp_path}/copies")
    with pytest.raises(backup.CopyError):
        create_backup(config)
    (tmp_path / "copies").unlink()
    (tmp_path / "copies").mkdir()
    create_backup(config)
    assert [one["places"] for one in backup.list_backups(config)] == [["local", "copy"]] * 2


def test_command_line(config: BackupConfig, live: sa.Engine) -> None:
    variables = {"DATABASE_URL": config.url, "BACKUP_DIR": str(config.directory)}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "app.backup", *arguments]
        env = {**os.environ, **variables}
        return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    made = json.loads(command("create", "--json").stdout)
    assert command("list").stdout.split("\t")[0] == made["file"]
    assert "restores" in command("verify").stdout
    refused = command("restore")
    assert (refused.returncode, refused.stdout) == (8, "")
    with live.begin() as conn:
        conn.execute(content.blobs.delete())
    live.dispose()
    assert "is kept as" in command("restore", "--yes").stdout
    failed = command("restore", "--yes", "nothing.gz", "--json")
    assert failed.returncode == 6
    assert json.loads(failed.stdout)["error"] == "InvalidBackupError"
    assert content.works_on(live)
