"""What takes longer: many rows, writers that never stop, restores killed at any moment."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from app.backup import BackupConfig, create_backup, restore_backup, verify_backup
from tests.backup import content
from tests.servers import wait_until


def test_100_000_rows(config: BackupConfig, live: sa.Engine) -> None:
    with live.begin() as conn:
        names = [{"user_name": f"{n} {content.AWKWARD[n % 14]}"} for n in range(100_000)]
        conn.execute(content.audit.insert(), names)
    before = content.read(live)
    create_backup(config)
    with live.begin() as conn:
        conn.execute(content.audit.delete())
    restore_backup(config)
    live.dispose()
    assert content.read(live) == before
    assert content.works_on(live)


@contextmanager
def writing(engine: sa.Engine) -> Iterator[list[int]]:
    """Add and remove rows all the time, two at once, so that a torn copy shows."""
    done: list[int] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with engine.begin() as conn:
                conn.execute(content.audit.insert(), {"user_name": "one"})
                conn.execute(content.blobs.insert(), {"data": b"x" * 5000})
                conn.execute(content.audit.insert(), {"user_name": "two"})
            done.append(1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def test_database_that_never_stands_still(config: BackupConfig, live: sa.Engine) -> None:
    with writing(live) as done:
        for _ in range(5):
            before = len(done)
            made = create_backup(config)
            verify_backup(config)
            assert len(done) > before
            rows = {key.rpartition(".")[2]: value for key, value in made["tables"].items()}
            added = rows["blobs"] - len(content.BLOBS) - 64
            assert rows["audit"] == 15 + 2 * added


@pytest.mark.parametrize("seed", range(20))
def test_restore_killed_at_any_moment(
    config: BackupConfig, live: sa.Engine, stopped: Callable[..., Any], seed: int
) -> None:
    restored = content.read(live)
    create_backup(config)
    with live.begin() as conn:
        conn.execute(content.audit.insert(), {"user_name": "later"})
    untouched = content.read(live)
    live.dispose()
    with stopped(config, "restore_backup", "compare" if seed % 2 else "swap") as process:
        process.stdin.close()  # go on
        time.sleep(random.Random(seed).uniform(0, 0.15))
        process.kill()

    def complete() -> bool:
        """The server may still be at work on what it was sent."""
        live.dispose()
        try:
            return content.read(live) in (untouched, restored) and content.works_on(live)
        except sa.exc.DBAPIError:
            return False

    wait_until(complete)
    verify_backup(config, wait=30)
