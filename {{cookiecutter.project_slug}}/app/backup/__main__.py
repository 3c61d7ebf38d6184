"""python -m app.backup create | list | verify | restore | prune

Exit codes: 0 done · 1 another error · 2 wrong usage · 3 a native tool is missing or too old ·
4 the database or its tool failed · 5 the backup folder cannot be written · 6 the backup is
damaged, foreign or absent · 7 another backup or restore is running · 8 not confirmed.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar
from rich.table import Column, Table

from app import backup
from app.backup import BackupConfig, BackupError, RefusedError
from app.core.config.settings import settings

app = typer.Typer(
    help="Back up and restore the project's database.",
    epilog=(__doc__ or "").partition("\n\n")[2].replace("\n", " "),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
screen = Console(stderr=True)
out = Console(soft_wrap=True)

COLUMNS = ("file", "made (UTC)", "size", "rows", "revision", "verified (UTC)", "state")
TIMES = ("created_at", "verified_at")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Wait = Annotated[float, typer.Option(help="Seconds to wait for another backup or restore.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Foreign = Annotated[bool, typer.Option(help="Accept a backup of a database of another name.")]
File = Annotated[Path | None, typer.Argument(help="A backup. Default: the newest good one.")]


@app.command()
def create(
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Delete no old backups.")] = False,
    wait: Wait = 0.0,
    as_json: Json = False,
) -> None:
    """Make a backup; then delete those older than BACKUP_RETENTION_DAYS."""
    days = None if keep_all else settings.backup.BACKUP_RETENTION_DAYS
    with _errors(as_json), _progress() as progress:
        made = backup.create_backup(_config(), retention_days=days, wait=wait, progress=progress)
    _print(made, as_json, f"{made['path']}  {_size(made['size'])}, {_rows(made)}")


@app.command(name="list")
def list_(as_json: Json = False) -> None:
    """Show the backups of this database, the newest first."""
    with _errors(as_json):
        found = backup.list_backups(_config())
    if as_json:
        _print(found, as_json)
        return
    lines = [_line(one) for one in found]
    if not found:
        out.print(f"no backups in {settings.backup.BACKUP_DIR}", markup=False, highlight=False)
    elif out.is_terminal:
        table = Table(*(Column(name, overflow="fold") for name in COLUMNS))
        for line in lines:
            table.add_row(*line)
        Console().print(table)
    else:
        for line in lines:
            print(*line, sep="\t")


@app.command()
def verify(
    file: File = None, foreign: Foreign = False, wait: Wait = 0.0, as_json: Json = False
) -> None:
    """Restore a backup beside the live database, check it, and remove it again."""
    with _errors(as_json), _progress() as progress:
        done = backup.verify_backup(_config(), file, foreign=foreign, wait=wait, progress=progress)
    _print(done, as_json, f"{done['path']}  restores: {_rows(done)}")


@app.command()
def restore(
    file: File = None,
    yes: Yes = False,
    foreign: Foreign = False,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Instead: remove what earlier restores kept.")
    ] = False,
    wait: Wait = 0.0,
    as_json: Json = False,
) -> None:
    """Put a backup in the place of the live database, which is kept under another name."""
    with _errors(as_json):
        if not yes and not sys.stdin.isatty():
            raise RefusedError("there is no terminal to ask on: add --yes")
        if drop_old:
            _drop_old(yes, wait, as_json)
            return
        with _progress() as progress:
            done = backup.restore_backup(
                _config(),
                file,
                confirm=None if yes else lambda summary: _confirm(summary, progress),
                foreign=foreign,
                wait=wait,
                progress=progress,
            )
    kept = f"; what was live is kept as {done['kept_as']}" if done["kept_as"] else ""
    for warning in done["warnings"]:
        screen.print(f"warning: {warning}", markup=False)
    _print(done, as_json, f"restored {done['path']}: {_rows(done)}{kept}")


@app.command()
def prune(
    days: Annotated[
        int, typer.Option(min=1, help="Age in days from which backups are deleted.")
    ] = settings.backup.BACKUP_RETENTION_DAYS,
    wait: Wait = 0.0,
    as_json: Json = False,
) -> None:
    """Delete old backups, never the newest good one."""
    with _errors(as_json):
        names = backup.prune_backups(_config(), days, wait)
    _print(names, as_json, "\n".join(f"deleted {name}" for name in names) or "nothing to delete")


def _config() -> BackupConfig:
    return BackupConfig(settings.database.DATABASE_URL, settings.backup.BACKUP_DIR)


def _drop_old(yes: bool, wait: float, as_json: bool) -> None:
    names = backup.old_databases(_config())
    if names and not yes and not typer.confirm(f"Remove for good: {', '.join(names)}?", err=True):
        raise RefusedError("not confirmed: nothing was removed")
    names = backup.drop_old(_config(), wait) if names else []
    _print(names, as_json, "\n".join(f"removed {name}" for name in names) or "nothing to remove")


def _confirm(summary: dict[str, Any], progress: backup.Progress) -> bool:
    progress("confirm", 0, None)
    return typer.confirm(
        f"\n{summary['path']} is sound: {_rows(summary)}, made {summary['created_at'][:19]} UTC.\n"
        f"Put it in the place of the live database, and keep that as {summary['kept_as']}?",
        err=True,
    )


@contextmanager
def _errors(as_json: bool) -> Iterator[None]:
    try:
        yield
    except BackupError as error:
        if as_json:
            _print({"error": type(error).__name__, "message": str(error)}, as_json)
        screen.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None


@contextmanager
def _progress() -> Iterator[backup.Progress]:
    """Give a bar on a terminal, else one line per phase."""
    if screen.is_terminal:
        columns = (TextColumn("{task.description:8}"), BarColumn(), DownloadColumn())
        with Bar(*columns, TransferSpeedColumn(), TimeElapsedColumn(), console=screen) as bar:
            yield _bar(bar)
        return
    seen: set[str] = set()

    def line(phase: str, done: int, total: int | None) -> None:
        if phase not in seen:
            seen.add(phase)
            screen.print(phase, markup=False)

    yield line


def _bar(bar: Bar) -> Callable[[str, int, int | None], None]:
    tasks: dict[str, TaskID] = {}

    def show(phase: str, done: int, total: int | None) -> None:
        if phase == "confirm":  # a question needs the terminal for itself
            bar.stop()
            return
        if phase not in tasks:
            tasks[phase] = bar.add_task(phase, total=total)
        bar.update(tasks[phase], completed=done)

    return show


def _print(data: object, as_json: bool, text: str = "") -> None:
    if as_json:
        print(json.dumps(data, ensure_ascii=False, indent=2))
    else:
        out.print(text, markup=False, highlight=False)


def _line(one: dict[str, Any]) -> list[str]:
    """Return the texts for COLUMNS."""
    if "created_at" not in one:
        return [one["file"], "", "", "", "", "", one["problem"]]
    made, verified = ((one[key] or "")[:19].replace("T", " ") for key in TIMES)
    rows = str(sum(one["tables"].values()))
    state = one["problem"] or "good"
    return [one["file"], made, _size(one["size"]), rows, one["revision"] or "", verified, state]


def _rows(manifest: dict[str, Any]) -> str:
    tables = manifest["tables"]
    return f"{sum(tables.values())} rows in {len(tables)} tables, revision {manifest['revision']}"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size} bytes"


if __name__ == "__main__":
    app()
