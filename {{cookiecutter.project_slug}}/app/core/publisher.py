"""Queues tasks from an event loop: no thread, and no wait that stops other requests.

Celery blocks until Redis has answered. Here it only writes the message, and an asynchronous client
does with it what Kombu's Redis transport does: one ``LPUSH``.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from celery import Celery, Task
from kombu import Connection
from kombu.utils.json import dumps
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

virtual: Any = import_module("kombu.transport.virtual")  # its type stubs do not know half of it


class _Channel(virtual.Channel):  # type: ignore[misc]
    def _put(self, queue: str, message: Mapping[str, Any], **_: object) -> None:
        self.connection.written.append((queue, dumps(message)))


class _Transport(virtual.Transport):  # type: ignore[misc]
    """Keeps what is to be sent."""

    Channel = _Channel

    def __init__(self, client: Any, **options: Any) -> None:
        self.written: list[tuple[str, str]] = []
        super().__init__(client, **options)


class Publisher:
    """Queues tasks. For one event loop at a time; it connects when it is first used."""

    def __init__(self, app: Celery[Any]) -> None:
        self._app = app
        self._connection = Connection(transport=_Transport)
        self._producer = app.amqp.Producer(self._connection)
        self._redis: Redis | None = None

    async def publish(self, task: Task[..., Any], task_id: str, kwargs: dict[str, Any]) -> None:
        """Queue a task. Raises what the Redis client raises."""
        task.apply_async(kwargs=kwargs, task_id=task_id, producer=self._producer)
        transport: Any = self._connection.transport
        messages, transport.written = transport.written, []
        if self._redis is None:
            self._redis = self._connect()
        prefix = self._app.conf.broker_transport_options.get("global_keyprefix", "")
        for queue, message in messages:
            await self._redis.lpush(f"{prefix}{queue}", message)

    async def close(self) -> None:
        """Close the connections."""
        client, self._redis = self._redis, None
        if client is not None:
            await client.aclose()

    def _connect(self) -> Redis:
        # Redis away is noticed at once: the client's default is to retry for seconds.
        return Redis.from_pool(
            BlockingConnectionPool.from_url(
                self._app.conf.broker_url,
                max_connections=20,
                timeout=2,
                socket_timeout=2,
                socket_connect_timeout=2,
                socket_keepalive=True,
                health_check_interval=25,
                retry=Retry(NoBackoff(), 1),
            )
        )
