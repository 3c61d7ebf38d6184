"""Back up and restore the project's database. Exit codes: 0 done, 1 error, 2 usage, 3 busy."""

import json
import sys
from typing import Annotated

import typer

from app.backup import BackupError, copies, database, files, operations
from app.backup.errors import BusyError
from app.core.config.settings import settings

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

Wait = Annotated[float, typer.Option(help="Seconds to wait for another backup or restore.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
File = Annotated[str | None, typer.Argument(help="A backup. Default: the newest.")]
Foreign = Annotated[bool, typer.Option("--foreign", help="Accept another database or server.")]
Days = Annotated[int, typer.Option(min=1, max=36_500, help="Days that backups are kept.")]
Old = Annotated[bool, typer.Option("--drop-old", help="Instead: remove what restores kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def create(wait: Wait = 0.0) -> None:
    """Make a backup, delete old ones, and copy it off-site."""
    manifest = operations.create_backup(wait=wait)
{% if cookiecutter.database != "sqlite" %}
    _warn(manifest)
{% endif %}
    print(manifest.model_dump_json(indent=2))


@app.command(name="list")
def list_(as_json: Json = False) -> None:
    """Show the backups and the copies of this database, the newest first."""
    local = files.list_backups(database.name())
    if not as_json:  # These are shown even if the store does not answer.
        _print(local, "local")
    here = {manifest.file for manifest in local}
    copied = [one for one in copies.list_copies(database.name()) if one.file not in here]
    if as_json:
        print(json.dumps([one.model_dump(mode="json") for one in local + copied], indent=2))
    else:
        _print(copied, "copy")


@app.command()
def verify(file: File = None, foreign: Foreign = False, wait: Wait = 0.0) -> None:
    """Restore a backup beside the live database, check it, and remove it again."""
    print(f"{operations.verify_backup(file, foreign=foreign, wait=wait).file} restores")


@app.command()
def restore(
    file: File = None,
    yes: Yes = False,
    foreign: Foreign = False,
    drop_old: Old = False,
    wait: Wait = 0.0,
) -> None:
    """Replace the live database with a backup. The live one is kept under another name."""
    if not yes and not sys.stdin.isatty():
        raise BackupError("there is no terminal to ask on: add --yes")
    if drop_old:
        names = operations.drop_old(lambda one: yes or _ask(f"Remove {one} for good?"), wait)
        print("removed:", *names)
        return

    def confirm(manifest: files.Manifest) -> bool:
{% if cookiecutter.database != "sqlite" %}
        _warn(manifest)
{% endif %}
        what = f"{sum(manifest.tables.values())} rows, {manifest.created_at:%Y-%m-%d %H:%M} UTC"
        return yes or _ask(f"Replace the live database with {manifest.file} ({what})?")

    old = operations.restore_backup(file, confirm, foreign=foreign, wait=wait)
    print(f"restored; the former live database is kept as {old}" if old else "restored")


@app.command()
def prune(days: Days = settings.backup.BACKUP_RETENTION_DAYS, wait: Wait = 0.0) -> None:
    """Delete old backups and copies, but not the newest BACKUP_KEEP_AT_LEAST."""
    print("deleted:", *operations.prune_backups(days, wait))


def _print(manifests: list[files.Manifest], place: str) -> None:
    for one in manifests:
        verified = f"verified {one.verified_at:%Y-%m-%d %H:%M}" if one.verified_at else ""
        copied = "copied" if one.copied_at else ""
        print(one.file, f"{one.size / 1e6:.1f} MB", place, copied, verified, sep="\t")


{% if cookiecutter.database != "sqlite" %}
def _warn(manifest: files.Manifest) -> None:
    for note in manifest.notes:
        print(f"warning: {note}", file=sys.stderr)


{% endif %}
def _ask(question: str) -> bool:
    return typer.confirm(question, err=True)


if __name__ == "__main__":
    try:
        app()
    except (BackupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3 if isinstance(error, BusyError) else 1)
