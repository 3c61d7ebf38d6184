"""Redis as a broker that loses no message when a worker is killed.

Celery's own Redis transport (Kombu) has two gaps, closed here:

- It pops a message and only then writes it down as taken. A worker killed in between loses it: in
  25 times ``kill -9`` under load, six messages were gone. Here one script does both.
- A message whose whole worker was killed waits for the visibility timeout, hours. Here each worker
  says every few seconds which messages it holds, and gives back those that nobody holds.

The keys and their content are Kombu's: its workers, Flower and ``celery`` commands understand them.
https://github.com/celery/kombu/blob/main/kombu/transport/redis.py
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from redis.exceptions import OutOfMemoryError, RedisError

log = logging.getLogger(__name__)

# Their type stubs do not know half of what is used here.
redis: Any = import_module("kombu.transport.redis")
virtual: Any = import_module("kombu.transport.virtual")
backends: Any = import_module("celery.backends.redis")

UNAVAILABLE = (RedisError, OSError)
# Seconds between two beats of a worker, and how long none of them must have been heard before all
# messages get the full time again: after a Redis outage none is anybody's.
BEAT_INTERVAL = 5.0
LONGEST_GAP = 15.0
GUARD_KEY = "guard"
REVOKED_KEY = "revoked"

# Forget the messages ARGV, which are done.
ACKNOWLEDGE = """
for _, tag in ipairs(ARGV) do
    redis.call('ZREM', KEYS[1], tag)
    redis.call('HDEL', KEYS[2], tag)
end
"""

# The same; then take a message from the first queue that has one and write it down, in one step.
# Writing comes first: it fails when Redis is full. What is no message is taken without.
TAKE = (
    ACKNOWLEDGE
    + """
local now = redis.call('TIME')
for i = 3, #KEYS do
    local message = redis.call('LINDEX', KEYS[i], -1)
    if message then
        local good, tag, exchange, routing_key = pcall(function()
            local properties = cjson.decode(message).properties
            local info = properties.delivery_info
            return properties.delivery_tag, cjson.encode(info.exchange),
                cjson.encode(info.routing_key)
        end)
        if good then
            redis.call('ZADD', KEYS[1], now[1], tag)
            redis.call('HSET', KEYS[2], tag,
                '[' .. message .. ', ' .. exchange .. ', ' .. routing_key .. ']')
        end
        redis.call('RPOP', KEYS[i])
        return {KEYS[i], message}
    end
end
return false
"""
)

# Keep a task's state and tell who waits for it, unless it has succeeded already.
STORE = """
local before = redis.call('GET', KEYS[1])
if before and string.sub(before, 1, 20) == '{"status": "SUCCESS"' then return 0 end
if ARGV[2] ~= '0' then redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
else redis.call('SET', KEYS[1], ARGV[1]) end
return redis.call('PUBLISH', KEYS[1], ARGV[1])
"""

# Say that the messages ARGV[3..] are held, and list those that nobody has held for ARGV[1] seconds.
# By the clock of Redis: those of the workers may jump.
BEAT = """
local now = tonumber(redis.call('TIME')[1])
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now, ARGV[i]) end
local last, since = unpack(redis.call('HMGET', KEYS[2], 'last', 'since'))
last = tonumber(last) or 0
if now - last > tonumber(ARGV[2]) or now < last then since = now end
redis.call('HSET', KEYS[2], 'last', now, 'since', since)
if now - since < tonumber(ARGV[1]) then return {} end
local lost = redis.call('ZRANGE', KEYS[1], '-inf', now - ARGV[1], 'BYSCORE', 'LIMIT', 0, 100)
local ahead = redis.call('ZRANGE', KEYS[1], now + 1, '+inf', 'BYSCORE', 'LIMIT', 0, 100)
for _, tag in ipairs(ahead) do lost[#lost + 1] = tag end
return lost
"""

# Put ARGV[2] into the queues KEYS[3..] unless the message ARGV[1] is done or held again meanwhile.
GIVE_BACK = """
local now = tonumber(redis.call('TIME')[1])
local held = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or now)
if held > now - tonumber(ARGV[4]) and held <= now then return 0 end
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 0 end
for i = 3, #KEYS do redis.call(ARGV[3], KEYS[i], ARGV[2]) end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
"""

# Of this worker: delivery tag -> when it was taken, by time.monotonic().
_held: dict[str, float] = {}
# Done, and Redis is to be told: by the script that takes the next message, or by the guard.
_to_acknowledge: set[str] = set()


class QoS(redis.QoS):  # type: ignore[misc]
    """The messages of one channel that are not acknowledged."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Remember a message that was taken."""
        _held[delivery_tag] = time.monotonic()
        if delivery_tag == self.channel.taken:
            virtual.QoS.append(self, message, delivery_tag)  # the script has written it down
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Forget a message. While Redis is away, or its connection was another one: later."""
        virtual.QoS.ack(self, delivery_tag)
        _to_acknowledge.add(delivery_tag)
        if not self.channel.takes_next():
            self._acknowledge_now()

    def _acknowledge_now(self) -> None:
        try:
            self.channel.check_open()
            acknowledge(self.channel)
        except UNAVAILABLE:
            pass  # the guard does it later

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Forget a message or put it back into its queue."""
        if requeue:
            virtual.QoS.ack(self, delivery_tag)
            self.restore_by_tag(delivery_tag, leftmost=True)
        else:
            self.ack(delivery_tag)

    def restore_by_tag(self, tag: str, client: object = None, leftmost: bool = False) -> None:
        """Put a message back into its queue. While Redis is away the guard does it later."""
        _held.pop(tag, None)
        try:
            self.channel.check_open()
            give_back(self.channel, tag, lost=leftmost)
        except UNAVAILABLE:
            log.warning("a message goes back to its queue later: Redis is away")

    def restore_unacked(self) -> list[tuple[BaseException, object]]:
        """Put back what this worker has taken and not begun. What runs goes on running."""
        from celery.worker import state as worker_state  # only a worker needs it

        self._flush()
        self._acknowledge_now()
        running = {request.message.delivery_tag for request in worker_state.active_requests}
        for tag in [tag for tag in self._delivered if tag not in running]:
            self.restore_by_tag(tag)
        self._delivered.clear()
        return []

    def restore_visible(self, *_args: object, **_kwargs: object) -> None:
        """Do nothing: the guard does it, by one clock and with regard to who holds what."""


class Channel(redis.Channel):  # type: ignore[misc]
    """Takes messages with a script instead of ``BRPOP``."""

    QoS = QoS
    taken: str | None = None
    _asked = "BRPOP"
    _waits = False
    _acknowledging: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._without_ack: set[str] = set()
        super().__init__(*args, **kwargs)

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Lend a client: one for all. Kombu makes one each time, a fifth of the cost of queuing."""
        self.check_open()
        yield client or self._shared_client

    def check_open(self) -> None:
        """Raise ConnectionError when the connection was given up, as after an outage of Redis."""
        # Not self.closed: while it closes, it still puts messages back.
        if self.connection is None or self.connection.client is None:
            raise ConnectionError("the connection was closed")

    def takes_next(self) -> bool:
        """Return whether the next thing that this channel does is to take a message."""
        return bool(not self._in_poll and self.active_queues and not self._waits)

    @cached_property
    def _shared_client(self) -> Any:
        return self._create_client()

    def _disconnect_pools(self) -> None:
        self.__dict__.pop("_shared_client", None)
        super()._disconnect_pools()

    def basic_consume(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Start to consume a queue."""
        (self._without_ack.add if no_ack else self._without_ack.discard)(queue)
        return super().basic_consume(queue, no_ack=no_ack, **kwargs)

    def _brpop_start(self, timeout: float | None = None) -> None:
        if not self._without_ack.isdisjoint(self.active_queues):
            # Replies to an inspection: nothing to acknowledge, so nothing to write down.
            self._asked = "BRPOP"
            super()._brpop_start(timeout)
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        prefix = self.global_keyprefix
        keys = [
            f"{prefix}{self._q_for_pri(queue, priority)}"
            for priority in self.priority_steps
            for queue in queues
        ]
        self._in_poll = connection = self.client.connection
        self._brpop_sent_at = time.monotonic()
        self._asked = "BLMOVE" if self._waits else "EVAL"
        if self._waits:
            # From the end of the queue to the end of the queue: waits for a message, moves none.
            # Only one queue can be waited for: the one that had the last message, which is the
            # last of the cycle. With more of them, look at all ten times a second.
            queue = keys[len(queues) - 1]
            seconds = self.brpop_timeout if len(keys) == 1 else 0.1
            connection.send_command("BLMOVE", queue, queue, "RIGHT", "RIGHT", seconds)
        else:
            index, unacked = f"{prefix}{self.unacked_index_key}", f"{prefix}{self.unacked_key}"
            # After _in_poll is set: what other threads have done since is told by them.
            self._acknowledging = tuple(_to_acknowledge)
            count = len(keys) + 2
            connection.send_command(
                "EVAL", TAKE, count, index, unacked, *keys, *self._acknowledging
            )

    def _brpop_read(self, **options: Any) -> bool:
        if self._asked == "BRPOP":
            return bool(super()._brpop_read(**options))
        client = self.client
        try:
            try:
                reply = client.parse_response(client.connection, self._asked, **options)
            except self.connection_errors:
                client.connection.disconnect()
                raise
            except OutOfMemoryError:
                log.error("Redis is full: no task is taken")
                time.sleep(1)
                raise Empty from None
            if self._asked == "EVAL":
                _acknowledged(self._acknowledging)
            self._waits = self._asked == "EVAL" and not reply
            if self._asked == "BLMOVE" or not reply:
                raise Empty
            self._deliver(*reply)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _deliver(self, key: bytes, message: bytes) -> None:
        queue = key.decode().removeprefix(self.global_keyprefix).rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        try:
            payload = json.loads(message)
            self.taken = payload["properties"]["delivery_tag"]
        except (ValueError, TypeError, KeyError):
            log.critical("dropped what is no message of Celery from the queue %s", queue)
            raise Empty from None
        if self._closing:
            give_back(self, self.taken)
        else:
            self.connection._deliver(payload, queue)


class Transport(redis.Transport):  # type: ignore[misc]
    """Kombu's Redis transport with these channels."""

    Channel = Channel


def acknowledge(channel: Any) -> None:
    """Delete the messages that are done. Raises what the Redis client raises."""
    tags = tuple(_to_acknowledge)
    if not tags:
        return
    prefix = channel.global_keyprefix
    index, unacked = f"{prefix}{channel.unacked_index_key}", f"{prefix}{channel.unacked_key}"
    with channel.conn_or_acquire() as client:
        client.eval(ACKNOWLEDGE, 2, index, unacked, *tags)
    _acknowledged(tags)


def _acknowledged(tags: tuple[str, ...]) -> None:
    for tag in tags:
        _to_acknowledge.discard(tag)
        _held.pop(tag, None)


def give_back(channel: Any, tag: str, lost: bool = False, unless_held_for: float = -1) -> bool:
    """Put a taken message back into its queue and return whether it was there to put back.

    Untouched, it is the next one to be taken; ``lost`` with its process, it is counted and goes to
    the end. Raises what the Redis client raises.
    """
    with channel.conn_or_acquire() as client:
        stored = client.hget(channel.unacked_key, tag)
        if stored is None:
            return False
        payload, exchange, routing_key = json.loads(stored)
        headers = payload["headers"]
        headers["redelivered"] = payload["properties"]["delivery_info"]["redelivered"] = True
        if lost:
            headers["times_lost"] = headers.get("times_lost", 0) + 1
        priority = channel._get_message_priority(payload, reverse=False)
        queues = channel._lookup(exchange, routing_key)
        keys = [channel.unacked_index_key, channel.unacked_key]
        keys += [channel._q_for_pri(queue, priority) for queue in queues]
        keys = [f"{channel.global_keyprefix}{key}" for key in keys]
        message, push = json.dumps(payload), "LPUSH" if lost else "RPUSH"
        return bool(client.eval(GIVE_BACK, len(keys), *keys, tag, message, push, unless_held_for))


class Guard(threading.Thread):
    """Says which messages this worker holds, and gives back those that no worker holds.

    A thread, since the worker's event loop stands still while it stops, or works with ``-P solo``.
    """

    def __init__(self, app: Any, lost_after: float) -> None:
        super().__init__(name="guard", daemon=True)
        self._app = app
        self._lost_after = lost_after
        self._connection: Any = None
        self._stopped = threading.Event()

    def run(self) -> None:
        """Beat until stopped, whatever happens."""
        while not self._stopped.wait(min(BEAT_INTERVAL, self._lost_after / 4)):
            try:
                self.beat()
            except Exception as error:
                log.warning("cannot tell Redis which messages are held: %s", error)
                self._disconnect()
        self._disconnect()

    def stop(self) -> None:
        """End the thread, soon."""
        self._stopped.set()

    def beat(self) -> None:
        """Acknowledge what could not be, renew what is held, give back what is lost."""
        if self._connection is None:
            self._connection = self._app.connection_for_write()
        channel = self._connection.default_channel
        prefix = channel.global_keyprefix
        index, guard = f"{prefix}{channel.unacked_index_key}", f"{prefix}{GUARD_KEY}"
        acknowledge(channel)
        with channel.conn_or_acquire() as client:
            # One that is held longer than any task may take was forgotten, not worked on.
            oldest = time.monotonic() - channel.visibility_timeout
            held = [tag for tag, taken_at in tuple(_held.items()) if taken_at > oldest]
            lost = client.eval(BEAT, 2, index, guard, self._lost_after, LONGEST_GAP, *held)
        for tag in lost:
            if give_back(channel, tag.decode(), lost=True, unless_held_for=self._lost_after):
                log.warning("gave back a message of a worker that is gone")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()


class ResultBackend(backends.RedisBackend):  # type: ignore[misc]
    """Celery's, with fewer trips to Redis."""

    # Whoever queues and calls ``get`` needs it. The API never waits for a result: there it would be
    # a trip to Redis more, and 19 s with Redis away.
    subscribe_when_queued = True

    def on_task_call(self, producer: object, task_id: str) -> None:
        """Subscribe to the result of a task that is being queued."""
        if self.subscribe_when_queued:
            super().on_task_call(producer, task_id)

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **_: Any,
    ) -> Any:
        # One trip to Redis in place of Celery's two.
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request
        )
        meta["task_id"] = task_id
        key, value = self.get_key_for_task(task_id), self.encode(meta)
        self.ensure(self.client.eval, (STORE, 1, key, value, int(self.expires or 0)))
        return result

    def exception_safe_to_retry(self, error: Exception) -> bool:
        """Return whether to try again: also when Redis is full, or the task would have no end."""
        return isinstance(error, OutOfMemoryError) or bool(super().exception_safe_to_retry(error))

    def remember_revoked(self, task_id: str) -> None:
        """Write down that a task is revoked, for workers that start later."""
        now = time.time()
        with self.client.pipeline() as pipeline:
            pipeline.zadd(REVOKED_KEY, {task_id: now})
            pipeline.zremrangebyscore(REVOKED_KEY, "-inf", now - self.app.conf.result_expires)
            pipeline.execute()

    def revoked_before(self) -> list[str]:
        """Return the ids of the tasks that were revoked, back to the expiry of results."""
        return [task_id.decode() for task_id in self.client.zrange(REVOKED_KEY, 0, -1)]


def install(app: Any) -> None:
    """Use these classes for the app's ``redis://`` and ``rediss://`` URLs."""
    schemes = ("redis", "rediss")
    TRANSPORT_ALIASES.update(dict.fromkeys(schemes, f"{__name__}:Transport"))
    app.loader.override_backends = dict.fromkeys(schemes, f"{__name__}:ResultBackend")
