"""Rate limits with Redis, and without it."""

import pytest
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter

from app.core import rate_limit
from app.core.config.redis import check_redis_url
from app.core.rate_limit import RateLimit, RateLimitExceededError
from app.core.redis import get_redis
from tests.servers import free_port


def test_attempts_are_counted_in_redis_under_hashed_keys(redis: None) -> None:
    limit = RateLimit("test", "2/minute")
    limit.hit("ann@example.com" * 1000)
    keys = list(get_redis().scan_iter("*limits*/test/*"))
    assert len(keys) == 1
    assert "example" not in keys[0]
    assert len(keys[0]) < 150
    assert 0 < get_redis().ttl(keys[0]) <= 60
    limit.clear("ann@example.com" * 1000)


def test_limit_holds_while_redis_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = RedisStorage(f"redis://127.0.0.1:{free_port()}", wrap_exceptions=True)
    limiter = FixedWindowRateLimiter(storage)
    monkeypatch.setattr(rate_limit, "in_redis", lambda: limiter)
    limit = RateLimit("down", "2/minute")
    limit.hit("ann@example.com")
    limit.hit("ann@example.com")
    with pytest.raises(RateLimitExceededError):
        limit.hit("ann@example.com")


@pytest.mark.parametrize("spelling", ["CERT_REQUIRED", "required"])
def test_both_spellings_of_tls_options_are_understood(spelling: str) -> None:
    url = check_redis_url(f"rediss://:word@redis.example.com:6379/0?ssl_cert_reqs={spelling}")
    assert url.endswith("?ssl_cert_reqs=required")
