"""python -m app.backup create | list | verify | restore | prune

Exit codes: 0 done · 1 another error · 2 wrong usage · 3 a native program is missing or too old ·
4 the database or its program failed · 5 the backup folder cannot be written · 6 the backup is
damaged, foreign or absent · 7 another backup or restore is running · 8 not confirmed, or not safe ·
9 the off-site copy could not be written or read.
"""

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from app import backup
from app.backup import BackupError, RefusedError
from app.backup.errors import CopyError
from app.backup.settings import backup_config
from app.core.config.settings import settings

app = typer.Typer(
    help="Back up and restore the project's database.",
    epilog=(__doc__ or "").partition("\n\n")[2].replace("\n", " "),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Wait = Annotated[float, typer.Option(help="Seconds to wait for another backup or restore.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Foreign = Annotated[bool, typer.Option(help="Accept a backup of another database or server.")]
File = Annotated[Path | None, typer.Argument(help="A backup. Default: the newest good one.")]
Days = Annotated[int, typer.Option(min=1, help="Age in days from which backups are deleted.")]

COLUMNS = "file\tmade (UTC)\tsize\trows\trevision\tverified (UTC)\tplaces\tstate"


@app.command()
def create(
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Delete no old backups.")] = False,
    wait: Wait = 0.0,
    as_json: Json = False,
) -> None:
    """Make a backup; then delete those older than BACKUP_RETENTION_DAYS."""
    days = None if keep_all else settings.backup.BACKUP_RETENTION_DAYS
    made = backup.create_backup(
        backup_config(), retention_days=days, wait=wait, progress=_progress()
    )
    _warn(made["notes"])
    _print(made, as_json, f"{made['path']}  {_size(made['size'])}, {_rows(made)}")


@app.command(name="list")
def list_(as_json: Json = False) -> None:
    """Show the backups of this database, the newest first."""
    config = backup_config()
    try:
        found = backup.list_backups(config)
    except CopyError:
        if not as_json:  # else two JSON documents would be printed
            print(_table(backup.list_backups(replace(config, copy_url=None))))
        raise
    _print(found, as_json, _table(found))


@app.command()
def verify(
    file: File = None, foreign: Foreign = False, wait: Wait = 0.0, as_json: Json = False
) -> None:
    """Restore a backup beside the live database, check it, and remove it again."""
    done = backup.verify_backup(
        backup_config(), file, foreign=foreign, wait=wait, progress=_progress()
    )
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
    """Replace the live database with a backup. The live one is kept under another name."""
    if not yes and not sys.stdin.isatty():
        raise RefusedError("there is no terminal to ask on: add --yes")
    if drop_old:
        _drop_old(yes, wait, as_json)
        return
    done = backup.restore_backup(
        backup_config(),
        file,
        confirm=None if yes else _confirm,
        foreign=foreign,
        wait=wait,
        progress=_progress(),
    )
    _warn(done["warnings"])
    kept = f"; the former live database is kept as {done['kept_as']}" if done["kept_as"] else ""
    _print(done, as_json, f"restored {done['path']}: {_rows(done)}{kept}")


@app.command()
def prune(
    days: Days = settings.backup.BACKUP_RETENTION_DAYS, wait: Wait = 0.0, as_json: Json = False
) -> None:
    """Delete old backups and copies, but not the newest BACKUP_KEEP_AT_LEAST."""
    names = backup.prune_backups(backup_config(), days, wait)
    _print(names, as_json, "\n".join(f"deleted {name}" for name in names) or "nothing to delete")


def _drop_old(yes: bool, wait: float, as_json: bool) -> None:
    names = backup.old_databases(backup_config())
    if names and not yes and not typer.confirm(f"Remove for good: {', '.join(names)}?", err=True):
        raise RefusedError("not confirmed: nothing was removed")
    names = backup.drop_old(backup_config(), wait) if names else []
    _print(names, as_json, "\n".join(f"removed {name}" for name in names) or "nothing to remove")


def _confirm(summary: dict[str, Any]) -> bool:
    return typer.confirm(
        f"{summary['path']} restores: {_rows(summary)}, made {summary['created_at'][:19]} UTC.\n"
        f"Replace the live database with it, and keep that as {summary['kept_as']}?",
        err=True,
    )


def _progress() -> backup.Progress:
    """Show each phase on a line of its own; on a terminal with the bytes so far."""
    seen: set[str] = set()

    def show(phase: str, done: int) -> None:
        if phase not in seen or sys.stderr.isatty():
            one_line_up = "\033[F" if phase in seen else ""
            typer.echo(f"{one_line_up}{phase} {_size(done) if done else ''}".rstrip(), err=True)
            seen.add(phase)

    return show


def _warn(notes: list[str]) -> None:
    for note in notes:
        typer.secho(f"warning: {note}", fg="yellow", err=True)


def _print(data: object, as_json: bool, text: str = "") -> None:
    print(json.dumps(data, ensure_ascii=False, indent=2) if as_json else text)


def _table(found: list[dict[str, Any]]) -> str:
    """Return one line for each backup, with tabs between the columns; a header on a terminal."""
    lines = [COLUMNS] if sys.stdout.isatty() else []
    for one in found:
        made, verified = (
            (one.get(key) or "")[:19].replace("T", " ") for key in ("created_at", "verified_at")
        )
        size = _size(one["size"]) if "size" in one else ""
        rows = str(sum(one["tables"].values())) if "tables" in one else ""
        revision, state = one.get("revision") or "", one["problem"] or "good"
        places = "+".join(one["places"])
        lines.append("\t".join([one["file"], made, size, rows, revision, verified, places, state]))
    return "\n".join(lines) if found else f"no backups in {settings.backup.BACKUP_DIR}"


def _rows(manifest: dict[str, Any]) -> str:
    tables = manifest["tables"]
    return f"{sum(tables.values())} rows in {len(tables)} tables, revision {manifest['revision']}"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size} bytes"


def main() -> None:
    """Run a command; an expected error is one line and an exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # clean up first
    try:
        app()
    except BackupError as error:
        if "--json" in sys.argv:
            _print({"error": type(error).__name__, "message": str(error)}, as_json=True)
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
