"""Rate limits. Each process counts on its own."""

from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

limiter = FixedWindowRateLimiter(MemoryStorage())
hit, clear = limiter.hit, limiter.clear
