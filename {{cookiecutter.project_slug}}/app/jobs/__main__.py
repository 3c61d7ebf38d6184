"""List, show, retry and cancel jobs."""

import json
import re
import sys
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import InterfaceError, OperationalError

from app.core.database import session_scope
from app.core.logging import configure_logging
from app.jobs import (
    Job,
    JobNotFoundError,
    JobStateError,
    JobStatus,
    cancel_job,
    get_job,
    list_jobs,
    retry_job,
)
from app.jobs._service import database_time

# Exit codes, beside 0 (success), 1 (unexpected error) and 2 (wrong usage).
NOT_FOUND = 3
WRONG_STATE = 4
DATABASE_UNAVAILABLE = 5
NOT_CONFIRMED = 8

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Status = Annotated[JobStatus | None, typer.Option(help="Only jobs in this state.")]
TaskName = Annotated[str | None, typer.Option("--task", help="Only jobs of this task.")]


def parse_age(text: str) -> timedelta:
    """Parse a duration such as ``90m`` or ``2d``."""
    match = re.fullmatch(r"(\d{1,5})([smhd])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not an age such as 30s, 90m, 12h or 2d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


Since = Annotated[
    timedelta | None,
    typer.Option(parser=parse_age, metavar="AGE", help="Only jobs newer than 90m, 12h or 2d."),
]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="The largest number of jobs.")]


@app.command("list")
def list_command(
    status: Status = None,
    task: TaskName = None,
    since: Since = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    jobs = find(status, task, since, limit)
    if as_json:
        print(json.dumps([as_dict(job) for job in jobs], indent=2))
        return
    table = Table("id", "task", "status", "attempts", "created (UTC)", box=None)
    for job in jobs:
        name = job.task.removeprefix("app.tasks.")
        created = f"{job.created_at:%Y-%m-%d %H:%M:%S}"
        table.add_row(job.id, name, job.status, str(job.attempts), created)
    # Wide enough for whole ids when the output is not a terminal.
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@app.command()
def show(job_id: str, as_json: AsJson = False) -> None:
    """Show everything about a job."""
    with session_scope() as session:
        values = as_dict(get_job(session, job_id))
    if as_json:
        print(json.dumps(values, indent=2))
        return
    for name, value in values.items():
        print(f"{name:13} {value if isinstance(value, str) else json.dumps(value)}")


@app.command()
def retry(
    job_id: Annotated[str | None, typer.Argument(help="Without it, all jobs that match.")] = None,
    status: Annotated[JobStatus, typer.Option(help="FAILURE or REVOKED.")] = JobStatus.FAILURE,
    task: TaskName = None,
    since: Since = None,
    limit: Limit = 1000,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue failed or cancelled jobs again: one by its id, or all that match."""
    ids = [job_id] if job_id else [job.id for job in find(status, task, since, limit)]
    if not job_id and ids and not yes:
        confirm(f"Queue {len(ids)} jobs again?")
    with session_scope() as session:
        for one in ids:
            retry_job(session, one)
    print(json.dumps(ids) if as_json else f"{len(ids)} queued again")


@app.command()
def cancel(job_id: str, as_json: AsJson = False) -> None:
    """Cancel a job, waiting or running."""
    with session_scope() as session:
        job = cancel_job(session, job_id)
        values = as_dict(job)
    print(json.dumps(values, indent=2) if as_json else f"{job_id} is {values['status']}")


def find(
    status: JobStatus | None, task: str | None, since: timedelta | None, limit: int
) -> list[Job]:
    """Return the jobs that match the options of a command."""
    with session_scope() as session:
        oldest: datetime | None = database_time(session) - since if since else None
        return list_jobs(session, status=status, task=task, since=oldest, limit=limit)


def as_dict(job: Job) -> dict[str, Any]:
    """Return the columns of a job as JSON can hold them."""
    values = {column.name: getattr(job, column.name) for column in Job.__table__.columns}
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }


def confirm(question: str) -> None:
    """Ask, and end the command unless the answer is yes."""
    if not sys.stdin.isatty():
        fail("confirm with --yes: there is no terminal to ask", NOT_CONFIRMED)
    if not typer.confirm(question):
        fail("not confirmed, nothing was changed", NOT_CONFIRMED)


def fail(message: str, code: int) -> None:
    """Print an error and end the command."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


def main() -> None:
    """Run the command line."""
    configure_logging()
    try:
        app()
    except JobNotFoundError as error:
        fail(f"there is no job {error}", NOT_FOUND)
    except JobStateError as error:
        fail(str(error), WRONG_STATE)
    except (OperationalError, InterfaceError) as error:
        reason = str(error.orig).split("\n")[0]
        fail(f"the database is unavailable or not migrated: {reason}", DATABASE_UNAVAILABLE)


if __name__ == "__main__":
    main()
