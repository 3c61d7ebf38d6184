"""Off-site copies on a server that speaks the S3 protocol, and their faults."""

import json
import os
import socket
import stat
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import obstore
import pyrage
import pytest
import sqlalchemy as sa
from app.backup import (
    BackupError,
    InvalidBackupError,
    copies,
    create_backup,
    database,
    files,
    operations,
    verify_backup,
)
from app.core.config.settings import settings
from tests.backup.conftest import TEXTS, delete_all, read
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
    live: sa.Engine, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """The backups are copied to the S3 server."""
    variables = {
        "AWS_ENDPOINT": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    set_backup(monkeypatch, COPY_URL=f"s3://bucket/{tmp_path.name}")
    monkeypatch.setattr(copies, "RETRIES", copies.RETRIES | {"max_retries": 2})
    return monkeypatch


def set_backup(patch: pytest.MonkeyPatch, **values: object) -> None:
    for name, value in values.items():
        patch.setattr(settings.backup, f"BACKUP_{name}", value)


def objects() -> list[str]:
    with copies.open_store() as store:
        return sorted(one["path"] for page in obstore.list(store) for one in page)


def put(name: str, data: bytes) -> None:
    with copies.open_store() as store:
        obstore.put(store, name, data)


def test_restores_from_the_bucket_on_a_new_machine(
    copied: pytest.MonkeyPatch, live: sa.Engine, tmp_path: Path
) -> None:
    made = create_backup()
    assert objects() == [made.file, f"{made.file}.json"]
    delete_all(live)
    set_backup(copied, DIR=tmp_path / "new")
    assert [one.file for one in copies.list_copies(database.name())] == [made.file]
    assert verify_backup().file == made.file
    operations.restore_backup(None, lambda manifest: True)
    assert read(live) == TEXTS


def test_age_opens_a_copy_with_any_of_the_keys(copied: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = [pyrage.x25519.Identity.generate() for _ in range(2)]
    set_backup(copied, AGE_RECIPIENTS=[str(key.to_public()) for key in keys])
    made = create_backup()
    with copies.open_store() as store:
        (tmp_path / "copy.age").write_bytes(bytes(obstore.get(store, f"{made.file}.age").bytes()))
    for number, key in enumerate(keys):
        (tmp_path / f"{number}.txt").write_text(str(key))
        command = ["age", "-d", "-i", tmp_path / f"{number}.txt", tmp_path / "copy.age"]
        plain = subprocess.run(command, capture_output=True, check=True).stdout
        assert plain == made.path.read_bytes()
    set_backup(copied, DIR=tmp_path / "new")
    with pytest.raises(BackupError, match="BACKUP_AGE_IDENTITY_FILE"):
        verify_backup()
    (tmp_path / "wrong.txt").write_text(str(pyrage.x25519.Identity.generate()))
    set_backup(copied, AGE_IDENTITY_FILE=tmp_path / "wrong.txt")
    with pytest.raises(BackupError, match="off-site copy"):
        verify_backup()
    assert list((tmp_path / "new").glob("*")) == []
    set_backup(copied, AGE_IDENTITY_FILE=tmp_path / "1.txt")
    verify_backup()


def test_a_copy_that_is_not_encrypted_is_refused(
    copied: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    create_backup()
    key = pyrage.x25519.Identity.generate()
    set_backup(copied, DIR=tmp_path / "new", AGE_RECIPIENTS=[str(key.to_public())])
    with pytest.raises(InvalidBackupError, match="not encrypted"):
        verify_backup()


def test_the_store_is_not_asked_while_there_is_a_local_backup(copied: pytest.MonkeyPatch) -> None:
    made = create_backup()
    forged = made.model_copy(update={"file": made.file.replace("_backup_2", "_backup_9")})
    forged.sequence, forged.copy_file = made.sequence + 10**6, forged.file
    put(forged.file, b"DROP DATABASE")
    put(f"{forged.file}.json", forged.model_dump_json().encode())
    assert verify_backup().file == made.file
    copied.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    assert verify_backup().file == made.file


@pytest.mark.parametrize("field", ["file", "copy_file"])
def test_a_manifest_of_the_store_names_no_path(
    copied: pytest.MonkeyPatch, tmp_path: Path, field: str
) -> None:
    made = create_backup()
    text = json.loads(made.model_dump_json())
    text[field] = f"../{made.file}"
    put(f"{made.file}.json", json.dumps(text).encode())
    set_backup(copied, DIR=tmp_path / "new")
    for file in (None, made.file):
        with pytest.raises(InvalidBackupError):
            verify_backup(file)
    assert copies.list_copies(database.name()) == []


def test_a_bucket_that_is_gone_and_a_server_that_is_away(copied: pytest.MonkeyPatch) -> None:
    with copied.context() as patch:
        set_backup(patch, COPY_URL="s3://nowhere/x")
        with pytest.raises(BackupError) as gone:
            create_backup()
        patch.undo()
    with copied.context() as patch:
        patch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{free_port()}")
        with pytest.raises(BackupError) as away:
            create_backup()
    assert "secret" not in f"{gone.value} {away.value}"
    assert "\n" not in f"{gone.value} {away.value}"
    create_backup()
    assert len(objects()) == 6  # what failed was repeated


def test_a_server_that_hangs_is_given_up(copied: pytest.MonkeyPatch) -> None:
    copied.setattr(copies, "LIMITS", copies.LIMITS | {"timeout": "1s"})
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        copied.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(BackupError, match="off-site copy"):
            create_backup()
    assert len(files.list_backups(database.name())) == 1


def next_second() -> None:
    """Wait until names of backups have another second."""
    now = int(time.time())
    wait_until(lambda: int(time.time()) > now)


def test_the_newest_is_taken_after_the_folder_was_lost(
    copied: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for _ in range(3):
        create_backup()
        next_second()
    set_backup(copied, DIR=tmp_path / "new")
    made = create_backup()
    assert verify_backup().file == made.file
    assert copies.list_copies(database.name())[0].file == made.file


def test_another_backup_with_the_same_name_is_not_taken_for_a_copy(
    copied: pytest.MonkeyPatch, live: sa.Engine, tmp_path: Path
) -> None:
    """Two servers with a database of the same name, one folder, and one time of the day."""
    noon = files.now()
    copied.setattr(files, "now", lambda: noon)
    create_backup()
    set_backup(copied, DIR=tmp_path / "other server")
    delete_all(live)
    with pytest.raises(BackupError, match="use a folder of its own"):
        create_backup()
    assert len(objects()) == 2


def test_a_damaged_file_is_not_copied(copied: pytest.MonkeyPatch) -> None:
    with copied.context() as patch:
        set_backup(patch, COPY_URL=None)
        path = create_backup().path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BackupError, match="is damaged: delete it"):
        create_backup()
    assert not [name for name in objects() if path.name in name]


def test_a_clock_that_was_wrong_costs_no_backup_and_no_copy(copied: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        create_backup()
    with copied.context() as patch:
        past = files.now() - timedelta(days=40)
        patch.setattr(files, "now", lambda: past)
        newest = create_backup()
    assert operations.prune_backups(30) == []
    assert newest.file in objects()
    assert files.list_backups(database.name())[0].file == newest.file


def test_retention_applies_to_the_copies(copied: pytest.MonkeyPatch) -> None:
    for days in (50, 40, 0):
        with copied.context() as patch:
            past = files.now() - timedelta(days=days)
            patch.setattr(files, "now", lambda past=past: past)
            create_backup()
    set_backup(copied, KEEP_AT_LEAST=1)
    assert len(operations.prune_backups(45)) == 2  # the local one and its copy
    assert len(objects()) == 4


def test_a_new_machine_leaves_the_copies_of_the_former(
    copied: pytest.MonkeyPatch, live: sa.Engine, tmp_path: Path
) -> None:
    with copied.context() as patch:
        past = files.now() - timedelta(days=40)
        patch.setattr(files, "now", lambda: past)
        create_backup()
    set_backup(copied, DIR=tmp_path / "new", KEEP_AT_LEAST=1)
    create_backup()
    # PostgreSQL has an identifier, and here it is the same server: only the folder was lost.
    assert len(objects()) == (2 if live.dialect.name == "postgresql" else 4)


def test_a_killed_download_is_replaced(copied: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = create_backup()
    set_backup(copied, DIR=tmp_path / "new")
    with files.partial_file(database.name(), database.server(), "plain") as left:
        leftover = Path(left.name)
    (tmp_path / "elsewhere").write_text("untouched")
    leftover.symlink_to(tmp_path / "elsewhere")
    verify_backup()
    assert sorted(one.name for one in leftover.parent.iterdir()) == [made.file, f"{made.file}.json"]
    assert (tmp_path / "elsewhere").read_text() == "untouched"


def test_a_damaged_copy_is_refused(copied: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put(create_backup().file, b"damaged")
    set_backup(copied, DIR=tmp_path / "new")
    with pytest.raises(InvalidBackupError):
        verify_backup()
    assert list((tmp_path / "new").iterdir()) == []


def test_what_the_store_lost_is_copied_again(copied: pytest.MonkeyPatch) -> None:
    made = create_backup()
    with copies.open_store() as store:
        obstore.delete(store, made.file)
    assert copies.list_copies(database.name()) == []
    create_backup()
    assert len(objects()) == 4


def test_copies_in_a_folder_are_private(copied: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    set_backup(copied, COPY_URL=f"file://{tmp_path}/copies")
    create_backup()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "copies").iterdir()]
    assert modes == [0o600, 0o600]
