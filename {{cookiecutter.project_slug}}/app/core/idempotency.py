"""May this task run twice? With ``@once`` it may: its effect comes once.

Delivery is at least once: a task whose worker is killed, or whose acknowledgement is lost, runs
again. What a task does must bear that. Best is what bears it by itself: a row set to a value, a
unique key in the database, an idempotency key that the payment service knows. For the rest::

    @celery_app.task
    @once("order_id")
    def charge(order_id: int) -> str: ...

One gap is left that no helper can close: a process killed after the effect and before it is written
down does it again.
"""

import functools
import inspect
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar, cast

from celery import current_task
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError, TimeoutError
from redis.retry import Retry

from app.core.redis import get_redis

P = ParamSpec("P")
R = TypeVar("R")

# Seconds after which the claim of a process that died is free.
LEASE = 15
DONE = "done:"
# Expires or deletes a claim, unless it is another one's by now.
IF_MINE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""


def once(*names: str, keep: int = 24 * 60 * 60) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Run a task's function once for the same values of the named arguments.

    Without names: once for the same task id, however often it is delivered. A second run returns
    what the first one returned, which is kept for ``keep`` seconds and must fit into JSON. While
    the first is still running, the second is retried later. A run that fails does not count.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = [bound.arguments[name] for name in names] or [current_task.request.id]
            key = f"once:{current_task.name}:{json.dumps(values)}"
            redis = get_redis()
            claim = secrets.token_hex(8)
            if not redis.set(key, claim, nx=True, ex=LEASE):
                before = cast("str | None", redis.get(key))
                if before is not None and before.startswith(DONE):
                    return cast("R", json.loads(before.removeprefix(DONE)))
                raise current_task.retry(countdown=LEASE, max_retries=None)
            with _renewed(key, claim):
                try:
                    result = function(*args, **kwargs)
                except BaseException:
                    redis.eval(IF_MINE, 1, key, claim, "0")
                    raise
            # The effect is there: try for a minute to write that down.
            patient = Retry(ConstantBackoff(1), 60, (ConnectionError, TimeoutError))
            done = f"{DONE}{json.dumps(result)}"
            patient.call_with_retry(lambda: redis.set(key, done, ex=keep), lambda _error: None)
            return result

        return wrapper

    return decorate


@contextmanager
def _renewed(key: str, claim: str) -> Iterator[None]:
    """Keep a claim while the process lives, however long the task takes."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(LEASE / 3):
            try:
                get_redis().eval(IF_MINE, 1, key, claim, str(LEASE * 1000))
            except (ConnectionError, TimeoutError):
                continue

    thread = threading.Thread(target=renew, name="once", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
