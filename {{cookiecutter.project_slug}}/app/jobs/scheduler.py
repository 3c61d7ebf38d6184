"""The scheduler that beat uses: queues the schedule's due entries as jobs, and dispatches jobs."""

import inspect
from datetime import UTC, datetime
from typing import Any

import structlog
from celery.beat import Scheduler
from kombu.exceptions import OperationalError as RedisUnavailableError
from redis.exceptions import RedisError
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.core.celery import find_task, touch_heartbeat_file
from app.core.database import session_scope
from app.jobs._dispatcher import dispatch
from app.jobs._service import add_job, database_time
from app.models.job import BEAT, ScheduleState

log = structlog.get_logger(__name__)


class JobScheduler(Scheduler):
    """Turns runs of the schedule into jobs. All state is in the database.

    So beat needs no file and no lock: several may run, and each run is queued once. A run that was
    missed while no beat was running is made up for once.
    https://docs.celeryq.dev/en/stable/userguide/periodic-tasks.html#using-custom-scheduler-classes
    """

    def tick(self, *_args: object, **_kwargs: object) -> float:
        """Queue what is due and dispatch; return the number of seconds until the next call."""
        seconds: float = self.max_interval or 0
        try:
            with session_scope() as session:
                seconds = min(seconds, self._queue_due(session))
            dispatch(self.app)
            with session_scope() as session:
                session.merge(ScheduleState(name=BEAT, last_run_at=database_time(session)))
        except SQLAlchemyError as error:
            log.error("the database is unavailable, trying again", error=str(error).split("\n")[0])
        except (RedisUnavailableError, RedisError, OSError) as error:
            log.error("Redis is unavailable, trying again", error=str(error))
        else:
            touch_heartbeat_file()
        return max(seconds, 0.1)

    def _queue_due(self, session: Session) -> float:
        states = {state.name: state for state in session.scalars(select(ScheduleState))}
        delays: list[float] = [self.max_interval or 0]
        entries: list[Any] = list(self.schedule.values())
        # The clock of this process may be wrong, and two beats must agree.
        now = database_time(session)
        for entry in entries:
            entry.schedule.nowfun = lambda: now.replace(tzinfo=UTC)
            if entry.name not in states:  # The first run comes at the entry's next time.
                states[entry.name] = session.merge(ScheduleState(name=entry.name, last_run_at=now))
            last_run_at = states[entry.name].last_run_at.replace(tzinfo=UTC)
            is_due, delay = entry.schedule.is_due(last_run_at)
            delays.append(delay)
            if is_due and self._claim(session, states[entry.name], now):
                task: Any = find_task(entry.task)
                add_job(session, task, _arguments(task, entry), schedule=entry.name)
                log.info("queued by the schedule", schedule=entry.name, task=entry.task)
        return min(delays)

    def _claim(self, session: Session, state: ScheduleState, now: datetime) -> bool:
        # Of two beats, only the one that changes the row queues the run.
        statement = (
            update(ScheduleState)
            .where(ScheduleState.name == state.name, ScheduleState.last_run_at == state.last_run_at)
            .values(last_run_at=now)
        )
        return bool(session.connection().execute(statement).rowcount)


def _arguments(task: Any, entry: Any) -> dict[str, Any]:
    bound = inspect.signature(task.run).bind(*(entry.args or ()), **(entry.kwargs or {}))
    return dict(bound.arguments)
