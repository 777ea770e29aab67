"""Rate limits: how many requests an address or a token may send, as a sliding window.

Counts are in memory that the processes of this server share, or in a store such as Redis that several servers share
(the setting `limits_storage`). A request is let through when that store does not answer: it must not take the registry
down.

An IPv6 address counts as its /64, which one machine can have to itself.
"""

import math
import time
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

import structlog
from limits import RateLimitItem, parse_many
from limits.errors import ConfigurationError, StorageError
from limits.storage import RedisStorage, storage_from_string

from registry.errors import InvalidRequest
from registry.server.processes.counters import Counters

log = structlog.get_logger()
SHARED = ("redis", "rediss", "redis+unix", "valkey", "valkeys", "valkey+unix")  # schemes of stores that servers share
STORE_SECONDS = 1.0  # longest wait for a shared store
PAUSE_SECONDS = 5.0  # for which a shared store that failed is left alone, and no request is limited


LimitsStorage = Counters | RedisStorage


def open_storage(url: str, counters: Counters) -> LimitsStorage:
    """Return where requests are counted: these counters for `memory://`, or a Redis or Valkey that servers share.

    Raises:
        InvalidRequest: The URL is of another kind, or the package that reaches such a store is not installed.
    """
    scheme = url.partition(":")[0]
    if scheme == "memory":
        return counters
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
        storage: Where requests are counted.

    Raises:
        InvalidRequest: The text is not a rate.
    """

    def __init__(self, name: str, text: str, storage: LimitsStorage) -> None:
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
        self.storage = storage
        self.paused_until = 0.0

    @property
    def shared(self) -> bool:
        """Whether counting waits for another server, and so must not happen in the event loop."""
        return not isinstance(self.storage, Counters)

    def refuse(self, key: str) -> dict[str, str] | None:
        """Count a request; return the headers of its refusal if it is one too many, else None.

        The headers are those of draft-ietf-httpapi-ratelimit-headers, as huggingface_hub reads them, and Retry-After.
        """
        if self.item is None or time.monotonic() < self.paused_until:
            return None
        try:
            name, limit, window = self.item.key_for(self.name, key), self.item.amount, self.item.get_expiry()
            if self.storage.acquire_sliding_window_entry(name, limit, window):
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


@lru_cache(maxsize=4096)
def address_key(host: str | None) -> str:
    """Return what an address counts as: an IPv4 address itself, an IPv6 address its /64, anything else `unknown`."""
    try:
        address = ip_address((host or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(ip_network((address, 64), strict=False) if isinstance(address, IPv6Address) else address)
