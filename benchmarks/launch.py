"""Run one command and report what it took; started as `python -I -S launch.py FD COMMAND...`, standard library only.

A process's peak memory, as wait4 has it, begins with the peak of the process that started it. So measured commands
are started by this small one. It writes one JSON line to the descriptor FD and ends as the command did.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

SAMPLED = 0.02  # seconds between looks at the memory


def watch(status: Path, ended: threading.Event, peak: list[int]) -> None:
    """Keep the most anonymous memory, in bytes, that a process was seen with."""
    while not ended.wait(SAMPLED):
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        peak[0] = max([peak[0], *(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))])


def main() -> int:
    """Run the command; return its exit code, 128 + n when signal n ended it."""
    report, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(report, False)
    ended, anonymous = threading.Event(), [0]
    began = time.perf_counter()
    process = os.posix_spawnp(command[0], command, os.environ)
    watcher = threading.Thread(target=watch, args=(Path(f"/proc/{process}/status"), ended, anonymous))
    watcher.start()
    _, status, usage = os.wait4(process, 0)
    wall = time.perf_counter() - began
    ended.set()
    watcher.join()
    unit = 1 if sys.platform == "darwin" else 1024
    took = {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * unit,
        "anonymous": anonymous[0],
    }
    os.write(report, json.dumps(took).encode())
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
