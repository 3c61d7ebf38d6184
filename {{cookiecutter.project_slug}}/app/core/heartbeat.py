"""A file that is touched while the worker or beat does its work.

Whoever looks after the process looks at the file's age: no Python is started, no worker is asked,
and a file that gets old says that the process hangs or has lost Redis.
"""

from celery import signals
from redbeat import RedBeatScheduler  # type: ignore[import-untyped]

from app.core.config.settings import settings


@signals.worker_ready.connect
@signals.heartbeat_sent.connect  # every two seconds, from the worker's main loop
def touch(**_: object) -> None:
    """Touch the file, if one is set."""
    if settings.celery.CELERY_HEARTBEAT_FILE:
        settings.celery.CELERY_HEARTBEAT_FILE.touch()


class Scheduler(RedBeatScheduler):  # type: ignore[misc]
    """RedBeat, and the file touched after each tick. One that waits for the lock does not tick."""

    def tick(self, *args: object, **kwargs: object) -> float:
        """Send what is due; return the seconds until the next tick."""
        delay: float = super().tick(*args, **kwargs)
        touch()
        return delay
