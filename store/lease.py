"""A lease in Redis: a key with the token of its holder, which expires unless it is renewed.

Each call is one command or script, so no other process changes the key between the comparison and the write.
"""

from redis import Redis

_ACQUIRE_OR_RENEW = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('expire', KEYS[1], ARGV[2]) end
return redis.call('set', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2]) and 1 or 0
"""
_RENEW = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('expire', KEYS[1], ARGV[2])
"""
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


def acquire(redis: Redis, key: str, token: str, ttl_s: int) -> bool:
    """Acquire the lease; return False if any token holds it, also this one."""
    return bool(redis.set(key, token, nx=True, ex=ttl_s))


def acquire_or_renew(redis: Redis, key: str, token: str, ttl_s: int) -> bool:
    """Acquire the lease, or renew it if `token` holds it; return False if another token holds it."""
    return bool(redis.eval(_ACQUIRE_OR_RENEW, 1, key, token, ttl_s))


def renew(redis: Redis, key: str, token: str, ttl_s: int) -> bool:
    """Renew the lease only if `token` still holds it; return whether it does."""
    return bool(redis.eval(_RENEW, 1, key, token, ttl_s))


def release(redis: Redis, key: str, token: str) -> bool:
    """Delete the key if `token` holds it; return whether it did."""
    return bool(redis.eval(_RELEASE, 1, key, token))
