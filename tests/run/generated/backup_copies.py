"""Off-site copies on a server that speaks the S3 protocol, and their faults."""

import os
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import obstore
import pyrage
import pytest
import sqlalchemy as sa

from app import backup
from app.backup import BackupConfig, create_backup, folder, restore_backup, verify_backup
from app.backup import settings as backup_settings
from app.backup.copy import _store
from tests.backup import content
from tests.servers import free_port, listens, running, wait_until


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server with the bucket ``bucket``."""
    port = free_port()
    command = [os.environ["MOTO_SERVER"], "-H", "127.0.0.1", "-p", str(port)]
    with running(command, tmp_path_factory.mktemp("s3") / "log"):
        wait_until(lambda: listens(port))
        url = f"http://127.0.0.1:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"))
        yield url


@pytest.fixture
def copied(
    config: BackupConfig, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> BackupConfig:
    """A filled database whose backups are copied to the S3 server."""
    variables = {
        "AWS_ENDPOINT": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return replace(config, copy_url=f"s3://bucket/{tmp_path.name}")


def objects(config: BackupConfig) -> list[str]:
    store = _store(config)
    return sorted(one["path"] for page in obstore.list(store) for one in page)


def test_restores_from_the_bucket_on_a_new_machine(
    copied: BackupConfig, live: sa.Engine, tmp_path: Path
) -> None:
    before = content.read(live)
    made = create_backup(copied)
    assert objects(copied) == [made["file"], f"{made['file']}.json"]
    with live.begin() as conn:
        conn.execute(content.blobs.delete())
    live.dispose()
    machine = replace(copied, directory=tmp_path / "new")
    assert backup.list_backups(machine)[0]["places"] == ["copy"]
    assert verify_backup(machine)["file"] == made["file"]
    assert backup.list_backups(machine)[0]["places"] == ["local", "copy"]
    restore_backup(machine)
    assert content.read(live) == before


def test_age_opens_a_copy_with_any_of_the_keys(copied: BackupConfig, tmp_path: Path) -> None:
    keys = [pyrage.x25519.Identity.generate() for _ in range(2)]
    encrypted = replace(copied, age_recipients=tuple(str(key.to_public()) for key in keys))
    made = create_backup(encrypted)
    store = _store(copied)
    (tmp_path / "copy.age").write_bytes(bytes(obstore.get(store, f"{made['file']}.age").bytes()))
    for number, key in enumerate(keys):
        (tmp_path / f"{number}.txt").write_text(str(key))
        command = ["age", "-d", "-i", tmp_path / f"{number}.txt", tmp_path / "copy.age"]
        plain = subprocess.run(command, capture_output=True, check=True).stdout
        assert plain == Path(made["path"]).read_bytes()
    machine = replace(encrypted, directory=tmp_path / "new")
    with pytest.raises(backup.CopyError, match="BACKUP_AGE_IDENTITY_FILE"):
        verify_backup(machine)
    (tmp_path / "wrong.txt").write_text(str(pyrage.x25519.Identity.generate()))
    with pytest.raises(backup.CopyError):
        verify_backup(replace(machine, age_identity_file=tmp_path / "wrong.txt"))
    assert not any(path.name.endswith(".gz") for path in machine.directory.iterdir())
    verify_backup(replace(machine, age_identity_file=tmp_path / "1.txt"))


def test_a_bucket_that_is_gone_and_a_server_that_is_away(
    copied: BackupConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(backup.CopyError) as gone:
        create_backup(replace(copied, copy_url="s3://nowhere/x"))
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{free_port()}")
        with pytest.raises(backup.CopyError) as away:
            create_backup(copied)
    assert "secret" not in f"{gone.value} {away.value}"
    create_backup(copied)
    assert len(objects(copied)) == 6  # what failed was repeated


def test_local_backups_restore_while_the_store_is_away(
    copied: BackupConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create_backup(copied)
    monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    assert verify_backup(copied)["file"] == made["file"]


def test_the_newest_is_taken_after_the_folder_was_lost(
    copied: BackupConfig, tmp_path: Path
) -> None:
    for _ in range(3):
        create_backup(copied)
    machine = replace(copied, directory=tmp_path / "new")
    made = create_backup(machine)
    assert verify_backup(machine)["file"] == made["file"]
    assert backup.list_backups(machine)[0]["file"] == made["file"]


def test_a_clock_that_was_wrong_costs_no_copy(
    copied: BackupConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        create_backup(copied)
    with monkeypatch.context() as patch:
        past = folder.now() - timedelta(days=40)
        patch.setattr(folder, "now", lambda: past)
        newest = create_backup(copied)
    assert backup.prune_backups(copied, 30) == []
    assert newest["file"] in objects(copied)
    assert backup.list_backups(copied)[0]["file"] == newest["file"]
    assert backup.backup_status(copied)["last_copy_age"] > 39 * 24 * 3600


def test_variables_of_other_programs_are_ignored(
    copied: BackupConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("AWS_UNKNOWN", "x")
    create_backup(copied)
    assert len(objects(copied)) == 2


def test_credentials_are_read_from_the_env_file(
    copied: BackupConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["AWS_SECRET_ACCESS_KEY=from-file", "AWS_REGION=of-the-file", "OTHER=x", "AWS_EMPTY="]
    (tmp_path / ".env").write_text("\n".join(lines))
    monkeypatch.setattr(backup_settings, "ENV_FILE", tmp_path / ".env")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    backup_settings.load_object_store_variables()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "from-file"
    assert os.environ["AWS_REGION"] == "us-east-1"
    assert not {"OTHER", "AWS_EMPTY"} & set(os.environ)
    create_backup(copied)


def test_a_killed_download_is_removed(copied: BackupConfig) -> None:
    create_backup(copied)
    for name in (".{}download.partial", ".{}x.sql.gz.json.partial"):
        (copied.directory / name.format(folder.prefix(copied))).touch()
    create_backup(copied)
    assert len(list(copied.directory.iterdir())) == 4


def test_a_damaged_copy_is_refused(copied: BackupConfig, tmp_path: Path) -> None:
    made = create_backup(copied)
    store = _store(copied)
    obstore.put(store, made["file"], b"damaged")
    with pytest.raises(backup.InvalidBackupError):
        verify_backup(replace(copied, directory=tmp_path / "new"))
    assert list((tmp_path / "new").iterdir()) == []


def test_data_without_a_manifest_is_no_copy(copied: BackupConfig) -> None:
    made = create_backup(copied)
    store = _store(copied)
    obstore.delete(store, f"{made['file']}.json")
    assert backup.list_backups(copied)[0]["places"] == ["local"]
    create_backup(copied)
    assert len(objects(copied)) == 4
