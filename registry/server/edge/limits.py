"""Rate limits: how many requests an address or a token may send, as a sliding window.

Counts are in the memory of this process, or in a store such as Redis that several servers share (the setting
`limits_storage`). A request is let through when that store does not answer: it must not take the registry down.

An IPv6 address counts as its /64, which one machine can have to itself.
"""

import math
import time
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network
from threading import Lock

import structlog
from limits import RateLimitItem, parse_many
from limits.errors import ConfigurationError, StorageError
from limits.storage import MemoryStorage, RedisStorage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from registry.errors import InvalidRequest

log = structlog.get_logger()
MOST_COUNTERS = 2**16  # in memory; an address or a token has two, of this window and of the one before
SHARED = ("redis", "rediss", "redis+unix", "valkey", "valkeys", "valkey+unix")  # schemes of stores that servers share
STORE_SECONDS = 1.0  # longest wait for a shared store
PAUSE_SECONDS = 5.0  # for which a shared store that failed is left alone, and no request is limited


class BoundedMemory(MemoryStorage):
    """Counts in this process, of a bounded number; beyond it, the counter that was idle longest is forgotten.

    The library's storage keeps each counter for two windows, however many there are. It counts exactly in one thread at
    a time, and a second thread that it starts to look for expired counters stumbles over those that others remove.
    """

    def __init__(self, most: int = MOST_COUNTERS) -> None:
        super().__init__()
        self.most = most
        self.recent: OrderedDict[str, None] = OrderedDict()  # counters, those used last at the end
        self.lock = Lock()

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a request unless there are too many; a refused request, too, keeps its key from being forgotten."""
        with self.lock:
            before, current = self.sliding_window_keys(key, expiry, time.time())
            self.recent[current] = None
            for counter in (before, current):
                if counter in self.recent:
                    self.recent.move_to_end(counter)
            if len(self.recent) > self.most:
                self.clear(self.recent.popitem(last=False)[0])
            return super().acquire_sliding_window_entry(key, limit, expiry, amount)

    def _MemoryStorage__schedule_expiry(self) -> None:
        """Start no thread: `most` bounds the counters."""


LimitsStorage = BoundedMemory | RedisStorage


def open_storage(url: str) -> LimitsStorage:
    """Return where requests are counted: `memory://`, or a Redis or Valkey that several servers share.

    Raises:
        InvalidRequest: The URL is of another kind, or the package that reaches such a store is not installed.
    """
    scheme = url.partition(":")[0]
    if scheme == "memory":
        return BoundedMemory()
    if scheme not in SHARED:
        raise InvalidRequest(
            f"REGISTRY_LIMITS_STORAGE begins with {scheme[:20]!r}; use memory://, redis:// or valkey://.",
            field="limits_storage",
        )
    timeouts = {"socket_timeout": STORE_SECONDS, "socket_connect_timeout": STORE_SECONDS}
    try:
        storage = storage_from_string(url, wrap_exceptions=True, **timeouts)
    except ConfigurationError:
        package = "valkey" if scheme.startswith("valkey") else "redis"
        raise InvalidRequest(
            f"REGISTRY_LIMITS_STORAGE is a {scheme}:// address, which needs the Python package {package!r}: "
            f"run `pip install {package}`, or use memory://.",
            field="limits_storage",
        ) from None
    except ValueError as error:
        raise InvalidRequest(f"REGISTRY_LIMITS_STORAGE is not a valid URL: {error}", field="limits_storage") from None
    assert isinstance(storage, RedisStorage)
    return storage


class Rate:
    """A number of requests in a time, for each key.

    Args:
        name: What is limited, `address` or `token`; answers name it.
        text: Like `600/minute`; empty or `0` for no limit.
        storage: Where requests are counted; the memory of this process if None.

    Raises:
        InvalidRequest: The text is not a rate.
    """

    def __init__(self, name: str, text: str, storage: LimitsStorage | None = None) -> None:
        self.name = name
        self.item: RateLimitItem | None = None
        try:
            if text.strip() not in ("", "0"):
                (self.item,) = parse_many(text)
                if self.item.amount < 1:
                    raise ValueError
        except ValueError:
            raise InvalidRequest(
                f"'{text}' is not a rate; write one like '600/minute', or 0 for no limit.", field=f"rate_{name}"
            ) from None
        self.storage = storage or BoundedMemory()
        self.limiter = SlidingWindowCounterRateLimiter(self.storage)
        self.paused_until = 0.0

    @property
    def shared(self) -> bool:
        """Whether counting waits for another process, and so must not happen in the event loop."""
        return not isinstance(self.storage, BoundedMemory)

    def refuse(self, key: str) -> dict[str, str] | None:
        """Count a request; return the headers of its refusal if it is one too many, else None.

        The headers are those of draft-ietf-httpapi-ratelimit-headers, as huggingface_hub reads them, and Retry-After.
        """
        if self.item is None or time.monotonic() < self.paused_until:
            return None
        try:
            if self.limiter.hit(self.item, self.name, key):
                return None
            seconds = self.wait(self.item, key)
        except StorageError as error:
            self.paused_until = time.monotonic() + PAUSE_SECONDS
            log.warning("limits.storage_failed", rate=self.name, error=str(error.storage_error))
            return None
        return {
            "Retry-After": str(seconds),
            "RateLimit": f'"{self.name}";r=0;t={seconds}',
            "RateLimit-Policy": f'"{self.name}";q={self.item.amount};w={self.item.get_expiry()}',
        }

    def wait(self, item: RateLimitItem, key: str) -> int:
        """Return the whole seconds until the next request of a key is let in, if it sends none before."""
        window = item.get_expiry()
        before, fading, count, left = self.storage.get_sliding_window(item.key_for(self.name, key), window)
        seconds = left - window  # until this window becomes the one before
        if count < item.amount:  # the one before fades: before * fading / window + count must fall below the limit
            seconds = fading - window * (item.amount - count) / max(before, 1)
        return max(0, math.ceil(seconds)) + 1


def address_key(host: str | None) -> str:
    """Return what an address counts as: an IPv4 address itself, an IPv6 address its /64, anything else `unknown`."""
    try:
        address = ip_address((host or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(ip_network((address, 64), strict=False) if isinstance(address, IPv6Address) else address)
