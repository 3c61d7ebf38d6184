"""Off-site copies: each good backup in an object store, or in a folder elsewhere.

A copy is two objects: the data, ``NAME`` or ``NAME.age`` if it is encrypted, and ``NAME.json``,
which is written last. Data without a manifest is an upload that did not finish.
https://developmentseed.org/obstore/latest/ and https://age-encryption.org
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from errno import EDQUOT, ENOSPC
from pathlib import Path
from shutil import copyfileobj
from typing import Any

import obstore
import pyrage
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from app.backup import folder
from app.backup.base import CHUNK, HashingMeter, Meter, chunks, one_line, private_file
from app.backup.config import BackupConfig, Progress, no_progress
from app.backup.errors import CopyError, InvalidBackupError, RefusedError
from app.backup.folder import Manifest

PART_SIZE = 8 << 20  # bytes held in memory per part of an upload
AGE_ERRORS = (pyrage.DecryptError, pyrage.EncryptError, pyrage.IdentityError, pyrage.RecipientError)


def list_copies(config: BackupConfig) -> list[Manifest]:
    """Return the manifests of this database's copies, the newest first.

    Raises:
        CopyError: the store cannot be read.
    """
    if not config.copy_url:
        return []
    with _errors(config):
        store = _store(config)
        names = [one["path"] for page in obstore.list(store) for one in page]
        ours = [name for name in names if name.startswith(folder.prefix(config))]
        found = []
        for name in ours:
            if name.endswith(".json"):
                text = bytes(obstore.get(store, name).bytes())
                try:
                    manifest = folder.parse_manifest(name.removesuffix(".json"), text)
                except InvalidBackupError:
                    continue  # of another program
                if manifest.copy_file in names and folder.is_ours(config, manifest):
                    found.append(manifest)
    return folder.newest_first(found)


def copy_missing(
    config: BackupConfig, server: str, retention_days: int | None, progress: Progress
) -> None:
    """Copy every good local backup that has no copy yet, the newest first; then apply retention.

    Raises:
        CopyError: the store refused, is not there, or gave back other bytes.
    """
    there = {manifest.file for manifest in list_copies(config)}
    for backup in folder.good_backups(config, server):
        if backup.file not in there:
            _upload(config, backup, progress)
        if not backup.copied_at:
            with folder.storage_errors(config):
                folder.update_manifest(config.directory / backup.file, copied_at=folder.now())
    if retention_days is not None:
        prune_copies(config, server, retention_days)


def prune_copies(config: BackupConfig, server: str, retention_days: int) -> list[str]:
    """Delete copies older than ``retention_days``, but never the newest ``keep_at_least``."""
    copies = [one for one in list_copies(config) if one.server == server]
    old = folder.expired(copies, config, retention_days)
    with _errors(config):
        for manifest in old:
            obstore.delete(_store(config), [f"{manifest.file}.json", str(manifest.copy_file)])
    return [manifest.file for manifest in old]


def fetch(config: BackupConfig, name: str, progress: Progress = no_progress) -> Path:
    """Download a copy into the backup folder, decrypted and compared with its checksum.

    Raises:
        CopyError: there is no such copy, it cannot be read, or no key decrypts it.
        RefusedError: it is not encrypted, but copies are to be.
        InvalidBackupError: it is damaged.
        StorageError: the backup folder cannot be written.
    """
    manifest = next((one for one in list_copies(config) if one.file == name), None)
    if manifest is None:
        raise CopyError(f"there is no copy of {name} at {config.copy_url}")
    if config.age_recipients and not str(manifest.copy_file).endswith(".age"):
        raise RefusedError(
            f"the copy of {name} is not encrypted, and BACKUP_AGE_RECIPIENTS is set: to accept it,"
            " unset that"
        )
    with folder.storage_errors(config):
        folder.make_folder(config)
        partial = folder.partial_path(config, "download")
        try:
            with private_file(partial) as file, _errors(config):
                target = HashingMeter(file, progress, "download")
                _download(config, manifest, target)
            if target.sha256.hexdigest() != manifest.sha256:
                raise InvalidBackupError(f"the copy of {name} is damaged: use another backup")
            local = manifest.model_copy(update={"copy_file": None, "copy_sha256": None})
            return folder.publish(config, partial, local)
        finally:
            partial.unlink(missing_ok=True)


def _upload(config: BackupConfig, backup: Manifest, progress: Progress) -> None:
    encrypt = bool(config.age_recipients)
    name = f"{backup.file}.age" if encrypt else backup.file
    with _errors(config):
        store = _store(config)
        # Not as a context manager: that would complete the upload when it fails half way.
        writer = obstore.open_writer(store, name, buffer_size=PART_SIZE, max_concurrency=2)
        target = HashingMeter(writer)
        with (config.directory / backup.file).open("rb") as file:
            source = Meter(file, progress, "upload")
            if encrypt:
                pyrage.encrypt_io(source, target, _recipients(config))
            else:
                copyfileobj(source, target, CHUNK)
        writer.close()
        sha256 = target.sha256.hexdigest()
        back = HashingMeter(obstore.open_reader(store, name, buffer_size=PART_SIZE))
        for _ in chunks(back):
            pass
        if back.sha256.hexdigest() != sha256:
            raise CopyError(f"{config.copy_url} gave back other bytes of {name} than were written")
        values = {"copy_file": name, "copy_sha256": sha256, "copied_at": folder.now()}
        text = backup.model_copy(update=values).model_dump_json(indent=2, exclude_none=True)
        obstore.put(store, f"{backup.file}.json", text.encode())


def _download(config: BackupConfig, manifest: Manifest, target: Meter) -> None:
    name = str(manifest.copy_file)
    source = Meter(obstore.open_reader(_store(config), name, buffer_size=PART_SIZE))
    if name.endswith(".age"):
        pyrage.decrypt_io(source, target, _identities(config))
    else:
        copyfileobj(source, target, CHUNK)


def _store(config: BackupConfig) -> ObjectStore:
    if not config.copy_url:
        raise CopyError("BACKUP_COPY_URL is not set: there are no off-site copies")
    if config.copy_url.startswith("file:"):
        return from_url(config.copy_url)
    # Credentials and endpoint are read from the environment.
    return from_url(
        config.copy_url,
        client_options={
            "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("true", "1"),
            "connect_timeout": "10s",
            "timeout": "120s",
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=60)},
    )


@contextmanager
def _errors(config: BackupConfig) -> Iterator[None]:
    """Turn errors of the store and of age into one line."""
    try:
        yield
    except (BaseError, *AGE_ERRORS, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
            raise  # The local disk is full.
        reason = one_line(str(error).partition("Debug source")[0])
        raise CopyError(f"off-site copy at {config.copy_url}: {reason}") from None


def _recipients(config: BackupConfig) -> list[Any]:
    """Parse public keys, age's own ("age1…") and SSH's ("ssh-ed25519 …")."""
    return [
        (pyrage.ssh if key.startswith("ssh-") else pyrage.x25519).Recipient.from_str(key)
        for key in config.age_recipients
    ]


def _identities(config: BackupConfig) -> list[Any]:
    """Read private keys from the file that ``age-keygen`` or ``ssh-keygen`` wrote."""
    if config.age_identity_file is None:
        raise CopyError("the copy is encrypted: set BACKUP_AGE_IDENTITY_FILE to the key's file")
    text = config.age_identity_file.read_bytes()
    if b"PRIVATE KEY-----" in text:
        return [pyrage.ssh.Identity.from_buffer(text)]
    keys = [line.strip() for line in text.decode().splitlines()]
    return [pyrage.x25519.Identity.from_str(key) for key in keys if key.startswith("AGE-SECRET")]
