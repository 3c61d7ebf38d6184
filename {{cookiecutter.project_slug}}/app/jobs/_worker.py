"""The worker's side of jobs: claim each attempt once and record its outcome."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from celery import Task, signals
from celery.exceptions import Ignore, Reject, Retry, TimeLimitExceeded, WorkerLostError
from sqlalchemy import select, update
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from app.core.celery import celery_app
from app.core.config.settings import settings
from app.core.database import DATABASE_NOW, dispose_engine, session_scope
from app.jobs._publisher import SCHEDULE, SERIES
from app.jobs._service import check_json, database_time, requeue
from app.models.job import RUNNING, WAITING, Job, JobStatus, ScheduleState

log = structlog.get_logger(__name__)

# Seconds for which recording an outcome is retried while the database is unavailable. After
# that, the attempt counts as lost and the job runs again.
OUTCOME_TIMEOUT = 120

# The name of this worker.
_worker_name = ""


class JobTask(Task[..., Any]):
    """The base class of all tasks. A task that was queued with ``.delay()`` runs as in Celery."""

    # Keep return values out of logs and events.
    resultrepr_maxsize = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task; if it is a job, claim the attempt first and record its outcome."""
        request: Any = self.request
        series = request.get(SERIES)
        if series is None or request.get("attempt"):
            return super().__call__(*args, **kwargs)
        number = series + request.retries + 1
        attempt = Attempt(request.id, series, number, request.get(SCHEDULE))
        if not attempt.claim(request.hostname):
            log.info("not run: the job was run, cancelled or queued again meanwhile")
            raise Ignore
        request.attempt = attempt
        try:
            result = self.run(*args, **kwargs)
        except Retry as retry:
            attempt.retry(retry)
            raise
        except Ignore:
            attempt.finish(JobStatus.IGNORED, None)
            raise
        except Reject as reject:
            reason, requeue = reject.args
            # Celery raises it, too, when it cannot send the message of a retry.
            if requeue or isinstance(reason, Exception):
                attempt.put_back()
            else:
                attempt.finish(JobStatus.FAILURE, f"rejected by the task: {reason}")
            raise
        except (SystemExit, KeyboardInterrupt):
            raise  # The process ends, and the attempt is lost.
        except BaseException as error:
            attempt.finish(JobStatus.FAILURE, describe(error))
            raise
        try:
            check_json(result)
        except (TypeError, ValueError) as error:
            attempt.finish(JobStatus.FAILURE, f"JSON cannot hold the return value: {error}")
            raise
        attempt.finish(JobStatus.SUCCESS, result)
        return result

    def update_state(
        self,
        task_id: str | None = None,
        state: str | None = None,
        meta: Any = None,
        **kwargs: Any,
    ) -> None:
        """Report progress. A job stores it in its row, whatever the name of the state."""
        attempt = self.request.get("attempt")
        if attempt is None:
            super().update_state(task_id, state, meta, **kwargs)
            return
        check_json(meta)
        with session_scope() as session:
            attempt.update(session, status=JobStatus.PROGRESS, result=meta)


class Attempt:
    """One attempt of a job. It can no longer change the row once another attempt has begun."""

    def __init__(self, job_id: str, series: int, number: int, schedule: str | None = None) -> None:
        self.job_id = job_id
        self.series = series
        self.number = number
        self.schedule = schedule

    def claim(self, worker: str) -> bool:
        """Claim the attempt. Return false if it was claimed before, or the job was cancelled.

        The attempt before may still be running: it queues its retry before it records that.
        """
        statement = (
            update(Job)
            .where(
                Job.id == self.job_id,
                Job.attempts == self.number - 1,
                Job.series == self.series,
                Job.status.in_((*WAITING, *RUNNING)),
            )
            .values(
                status=JobStatus.STARTED,
                attempts=self.number,
                worker=worker,
                pid=os.getpid(),
                started_at=DATABASE_NOW,
            )
        )
        try:
            with session_scope() as session:
                if session.connection().execute(statement).rowcount:
                    return True
                self._recover_lost(session, worker)
                return False
        except (OperationalError, InterfaceError) as error:
            log.warning("not run yet: the database is unavailable", error=str(error.orig))
            raise Ignore from None

    def _recover_lost(self, session: Session, worker: str) -> None:
        # Celery hands a message to another process if the first one ended before the worker knew
        # that it had begun. Nothing else would detect that this attempt was lost.
        job = session.get(Job, self.job_id, with_for_update=True)
        if (
            job is not None
            and job.status in RUNNING
            and (job.attempts, job.worker) == (self.number, worker)
            and not _is_running(job.pid)
        ):
            put_back_lost(session, job, f"process {job.pid} ended")

    def update(self, session: Session, **values: Any) -> bool:
        """Change the row if this attempt still owns it, and return whether it does."""
        statement = (
            update(Job)
            .where(Job.id == self.job_id, Job.attempts == self.number, Job.status.in_(RUNNING))
            .values(values)
        )
        return bool(session.connection().execute(statement).rowcount)

    def finish(self, status: JobStatus, result: Any) -> None:
        """Record the outcome."""

        def record(session: Session) -> None:
            if not self.update(session, status=status, result=result, finished_at=DATABASE_NOW):
                log.warning("outcome not recorded: cancelled or begun again meanwhile")
            elif status == JobStatus.SUCCESS and self.schedule:
                session.execute(
                    update(ScheduleState)
                    .where(ScheduleState.name == self.schedule)
                    .values(last_success_at=DATABASE_NOW)
                )

        _record(record)

    def retry(self, retry: Retry) -> None:
        """Record that Celery has queued the next attempt."""

        def record(session: Session) -> None:
            when: Any = retry.when  # A number of seconds, or a time.
            if not isinstance(when, datetime):
                when = database_time(session) + timedelta(seconds=when or 0)
            else:
                when = when if when.tzinfo else when.replace(tzinfo=celery_app.timezone)
                when = when.astimezone(UTC).replace(tzinfo=None)
            self.update(
                session,
                status=JobStatus.RETRY,
                result=describe(retry.exc) if retry.exc else None,
                due_at=when,
                published_at=when,
            )

        _record(record)

    def put_back(self) -> None:
        """Queue the job again; this attempt does not count as lost."""

        def record(session: Session) -> None:
            if self.update(session, status=JobStatus.PENDING):
                requeue(session, session.get_one(Job, self.job_id))

        _record(record)


def _is_running(pid: int | None) -> bool:
    """Return whether a process of this machine exists."""
    try:
        os.kill(pid or 0, 0)  # Signal 0 only checks.
    except ProcessLookupError:
        return False
    return True


def describe(error: BaseException) -> str:
    """Return an error as text: its type and its message."""
    name = type(error).__name__
    try:
        text = str(error).encode(errors="backslashreplace").decode()
    except Exception:  # Its ``__str__`` fails.
        return name
    return f"{name}: {text}" if text else name


def fail(job: Job, error: str) -> None:
    """End a job as failed."""
    job.status = JobStatus.FAILURE
    job.result = error
    job.finished_at = DATABASE_NOW


def put_back_lost(session: Session, job: Job, reason: str) -> None:
    """Queue a job again whose attempt was lost, or fail it after ``JOB_MAX_ATTEMPTS``."""
    job.lost += 1
    log.warning("attempt lost", task_id=job.id, task=job.task, lost=job.lost, reason=reason)
    if job.lost >= settings.celery.JOB_MAX_ATTEMPTS:
        fail(job, f"lost {job.lost} times, the last time: {reason}")
    else:
        requeue(session, job)


def _record(record: Callable[[Session], None]) -> None:
    """Record an outcome, waiting for the database if it is unavailable."""
    deadline = time.monotonic() + OUTCOME_TIMEOUT
    while True:
        try:
            with session_scope() as session:
                record(session)
            return
        except (OperationalError, InterfaceError) as error:
            if time.monotonic() > deadline:
                raise
            log.warning("the database is unavailable, the outcome waits", error=str(error.orig))
            time.sleep(1)


def _running_on(session: Session, worker: str) -> list[Job]:
    query = select(Job).where(Job.status.in_(RUNNING), Job.worker == worker)
    return list(session.scalars(query.with_for_update()))


@signals.worker_init.connect
def _remember_name(sender: Any, **_: object) -> None:
    global _worker_name
    _worker_name = sender.hostname


@signals.worker_ready.connect
def _recover(sender: Any, **_: object) -> None:
    """Put back what a worker of the same name was running when it was killed."""
    with session_scope() as session:
        for job in _running_on(session, sender.hostname):
            put_back_lost(session, job, f"the worker {job.worker} was killed")


@signals.worker_shutting_down.connect
def _hand_back(sender: str, how: str, **_: object) -> None:
    """Put back what this worker did not finish.

    A warm shutdown waits for running tasks and begins with this signal. A cold one has cancelled
    them before it sends it.
    """
    if how == "Cold":
        with session_scope() as session:
            for job in _running_on(session, sender):
                requeue(session, job)


@signals.task_failure.connect
def _record_lost_process(task_id: str, exception: BaseException, **_: object) -> None:
    """Record a lost pool process or the hard time limit, which only the main process can see."""
    if not isinstance(exception, WorkerLostError | TimeLimitExceeded):
        return
    with session_scope() as session:
        job = session.get(Job, task_id, with_for_update=True)
        # A worker that was suspended must not end an attempt that meanwhile runs elsewhere.
        if job is None or job.status not in RUNNING or job.worker != _worker_name:
            return
        if isinstance(exception, WorkerLostError):
            put_back_lost(session, job, describe(exception))
        else:
            fail(job, describe(exception))


@signals.worker_process_shutdown.connect
@signals.worker_shutdown.connect
def _close_database(**_: object) -> None:
    dispose_engine()


@signals.task_unknown.connect
def _fail_unknown(name: str, id: str, **_: object) -> None:
    with session_scope() as session:
        job = session.get(Job, id, with_for_update=True)
        if job is not None and job.status in WAITING:
            fail(job, f"NotRegistered: there is no task {name}")
