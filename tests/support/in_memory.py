"""A place in memory for temporary files: tests sync thousands of them to a disk that nobody reads again."""

import os
import shutil
from pathlib import Path

PLACE = Path("/dev/shm")
ROOM = 4 * 2**30  # bytes; a run leaves some hundred megabytes at most, since what passed is removed


def find_place() -> Path | None:
    """Return the folder, where there is one with room whose files may be run."""
    try:
        status = os.statvfs(PLACE)
        known = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        memory = int(known["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
    usable = os.access(PLACE, os.W_OK) and not status.f_flag & os.ST_NOEXEC
    return PLACE if usable and min(status.f_bavail * status.f_frsize, memory) >= ROOM else None


def remove_stale(place: Path, kind: str) -> None:
    """Remove folders named `kind-PID-...` of test processes that were killed, since they take up memory."""
    for folder in place.glob(f"{kind}-*-*"):
        if not Path(f"/proc/{folder.name.split('-')[1]}").exists():
            shutil.rmtree(folder, ignore_errors=True)
