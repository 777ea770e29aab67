"""How often an address or a token may ask: a sliding window counted in this process, of a bounded number of keys.

An IPv6 address counts as its /64, which one machine can have to itself. When more keys ask than are kept, the one that
was quiet longest is forgotten: memory is bounded whatever addresses an attacker has, and each of them is limited while
it is busy.
"""

import math
import time
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network
from threading import Lock

from limits import RateLimitItem, parse_many
from limits.storage import SlidingWindowCounterSupport, Storage
from limits.strategies import SlidingWindowCounterRateLimiter

from registry.errors import InvalidRequest

MOST_KEYS = 2**16  # about 20 MB


class Counters(Storage, SlidingWindowCounterSupport):
    """The counts of the present window and the one before, by key.

    The library's own storage in memory keeps every key until it expires, and looks through all of them in a thread
    that each request starts.
    """

    STORAGE_SCHEME = None

    def __init__(self, most: int = MOST_KEYS) -> None:
        super().__init__()
        self.most = most
        self.windows: OrderedDict[str, tuple[int, int, int]] = OrderedDict()  # its number, its count, the one before
        self.lock = Lock()

    @property
    def base_exceptions(self) -> type[Exception]:
        """What goes wrong here, for the library to wrap: nothing."""
        return ValueError

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a request, unless that would be too many."""
        with self.lock:
            at = time.time()
            number, count, before = self._window(key, expiry, at)
            let_in = math.floor(before * self._left(expiry, at) / expiry + count) + amount <= limit
            self.windows[key] = number, count + amount * let_in, before
            self.windows.move_to_end(key)  # whoever is refused, too: asking on must not make one forgotten
            if len(self.windows) > self.most:
                self.windows.popitem(last=False)
            return let_in

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the count and the seconds left of the window before, and of the present one."""
        with self.lock:
            at = time.time()
            _, count, before = self._window(key, expiry, at)
            left = self._left(expiry, at)
            return before, left, count, left + expiry

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget a key."""
        self.clear(key)

    def clear(self, key: str) -> None:
        """Forget a key."""
        with self.lock:
            self.windows.pop(key, None)

    def reset(self) -> int | None:
        """Forget all keys; return how many there were."""
        with self.lock:
            gone = len(self.windows)
            self.windows.clear()
            return gone

    def check(self) -> bool:
        """Say that the storage is there."""
        return True

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Refuse what only fixed windows need."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Refuse what only fixed windows need."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Refuse what only fixed windows need."""
        raise NotImplementedError

    def _window(self, key: str, expiry: int, at: float) -> tuple[int, int, int]:
        present = int(at // expiry)
        number, count, before = self.windows.get(key, (present, 0, 0))
        if number == present:
            return present, count, before
        return present, 0, count if number == present - 1 else 0

    @staticmethod
    def _left(expiry: int, at: float) -> float:
        return expiry - at % expiry


class Rate:
    """So many requests in a time for each key.

    Args:
        name: What is limited, `address` or `token`; answers name it.
        text: Like `600/minute`; empty or `0` for no limit.
        most: How many keys are kept.

    Raises:
        InvalidRequest: the text is no rate.
    """

    def __init__(self, name: str, text: str, most: int = MOST_KEYS) -> None:
        self.name = name
        self.item: RateLimitItem | None = None
        try:
            if text.strip() not in ("", "0"):
                (self.item,) = parse_many(text)
                if self.item.amount < 1:
                    raise ValueError
        except ValueError:
            raise InvalidRequest(
                f"'{text}' is no rate; write one like '600/minute', or 0 for none.", field=f"rate_{name}"
            ) from None
        self.counters = Counters(most)
        self.limiter = SlidingWindowCounterRateLimiter(self.counters)

    def refuse(self, key: str) -> dict[str, str] | None:
        """Count a request; return the headers of its refusal when it is one too many, else None.

        The headers are those of draft-ietf-httpapi-ratelimit-headers, as huggingface_hub reads them, and Retry-After.
        """
        if self.item is None or self.limiter.hit(self.item, key):
            return None
        window = self.item.get_expiry()
        seconds = self.wait(self.item.key_for(key), self.item.amount, window)
        return {
            "Retry-After": str(seconds),
            "RateLimit": f'"{self.name}";r=0;t={seconds}',
            "RateLimit-Policy": f'"{self.name}";q={self.item.amount};w={window}',
        }

    def wait(self, key: str, limit: int, window: int) -> int:
        """Return the whole seconds until the next request is let in, if none comes before."""
        before, left, count, _ = self.counters.get_sliding_window(key, window)
        if count < limit:  # the window before fades: before * rest / window + count has to fall below the limit
            left -= window * (limit - count) / max(before, 1)
        return max(0, math.ceil(left)) + 1


def address_key(host: str | None) -> str:
    """Return what an address counts as: an IPv4 address itself, an IPv6 address its /64, and all others one."""
    try:
        address = ip_address((host or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(ip_network((address, 64), strict=False) if isinstance(address, IPv6Address) else address)
