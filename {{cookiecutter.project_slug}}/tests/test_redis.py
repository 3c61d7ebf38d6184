"""The login limit with Redis, and with Redis away."""

import pytest
from limits import RateLimitItem


@pytest.fixture
def limit() -> RateLimitItem:
    from app.core.rate_limit import FAILED_LOGINS

    return FAILED_LOGINS


def test_failed_logins_are_counted_in_redis(redis: None, limit: RateLimitItem) -> None:
    from app.core.rate_limit import count_failed_login
    from app.core.redis import get_redis

    count_failed_login("10.0.0.1", "Ann@example.com")
    keys = list(get_redis().scan_iter("*/10.0.0.1/ann@example.com/*"))
    assert len(keys) == 1
    assert 0 < get_redis().ttl(keys[0]) <= limit.get_expiry()


def test_limit_holds_while_redis_is_away(
    monkeypatch: pytest.MonkeyPatch, limit: RateLimitItem
) -> None:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from app.core import redis as module
    from app.core.rate_limit import count_failed_login, login_is_blocked
    from tests.servers import free_port

    nobody = Redis(port=free_port(), retry=Retry(NoBackoff(), 0))
    monkeypatch.setattr(module, "get_redis", lambda: nobody)
    for _ in range(limit.amount):
        assert not login_is_blocked("10.0.0.2", "ann@example.com")
        count_failed_login("10.0.0.2", "ann@example.com")
    assert login_is_blocked("10.0.0.2", "ann@example.com")


def test_tls_in_either_spelling() -> None:
    from app.core.config.redis import check_redis_url

    for spelling in ("CERT_REQUIRED", "required"):
        url = check_redis_url(f"rediss://:word@redis.example.com:6379/0?ssl_cert_reqs={spelling}")
        assert url.endswith("?ssl_cert_reqs=required")
