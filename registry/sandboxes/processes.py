"""Processes: the processor time of a process and its descendants, and the memory of this machine."""

import os
from contextlib import suppress
from pathlib import Path

TIMES = slice(11, 15)  # of /proc/PID/stat, after the name: of the process, and of its children that have ended
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # versions 2 and 1


def processor_time(pid: int) -> int | None:
    """Return the processor time of a process and its descendants, in clock ticks; None without a /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    own = sum(int(field) for field in fields[TIMES])
    return own + sum(processor_time(child) or 0 for child in children(pid))


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that run; none if it has ended."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # the thread has ended
                found += map(int, (thread / "children").read_text().split())
    return found


def machine_memory() -> int:
    """Return the bytes of memory that this machine has or, in a container, that this container may use."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such file; "max"
            most = min(most, int(Path(path).read_text()))
    return most
