"""Ask a server for one address on many connections; started as `python -I -S load.py URL METHOD CONNECTIONS SECONDS`.

Each connection sends its next request when the answer to its last one is whole. One JSON line says how many answers and
bytes came, in how many seconds, how long answers took, and how many had a status other than 200. wrk would do, but for
HEAD: it waits for the body whose length an answer to HEAD tells.
"""

import json
import select
import socket
import sys
import time
from urllib.parse import urlsplit

END, LENGTH = b"\r\n\r\n", b"content-length:"
BUFFER = bytearray(2**18)


class Connection:
    """A connection with one request under way."""

    def __init__(self, url: str, method: str) -> None:
        place = urlsplit(url)
        self.request = f"{method} {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nAccept: */*\r\n\r\n".encode()
        self.head_only = method == "HEAD"
        self.socket = socket.create_connection((place.hostname or "", place.port or 80))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ask()

    def ask(self) -> None:
        """Send the request."""
        self.header, self.left, self.asked = b"", 0, time.perf_counter()
        self.socket.send(self.request)

    def receive(self) -> int:
        """Take what has come; return how many bytes that was."""
        count = self.socket.recv_into(BUFFER)
        if not count:
            raise SystemExit("The server closed a connection.")
        if END in self.header:
            self.left -= count
            return count
        self.header += BUFFER[:count]
        end = self.header.find(END)
        if end >= 0:
            head = self.header[:end].lower()
            at = head.find(LENGTH)
            size = 0 if self.head_only or at < 0 else int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0])
            self.left = end + len(END) + size - len(self.header)
        return count

    @property
    def whole(self) -> bool:
        """Whether the answer is complete."""
        return self.left <= 0 and END in self.header


def ask(url: str, method: str, connections: int, seconds: float) -> dict[str, object]:
    """Send requests for so many seconds."""
    poll, began = select.epoll(), time.perf_counter()
    took, others, size = list[float](), 0, 0
    opened = {made.socket.fileno(): made for made in (Connection(url, method) for _ in range(connections))}
    for number in opened:
        poll.register(number, select.EPOLLIN)
    while time.perf_counter() < began + seconds:
        for number, _ in poll.poll(0.5):
            one = opened[number]
            size += one.receive()
            if one.whole:
                took.append(time.perf_counter() - one.asked)
                others += one.header[9:12] != b"200"
                one.ask()
    took.sort()
    return {
        "answers": len(took),
        "bytes": size,
        "seconds": time.perf_counter() - began,
        "median": took[len(took) // 2] if took else 0.0,
        "slow": took[len(took) * 99 // 100] if took else 0.0,
        "others": others,
    }


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
