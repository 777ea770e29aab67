"""Ray clusters on this machine: raylets with a folder and settings of their own, which a test kills one by one.

`ray stop` would end those of everybody. What belongs to a node is found by a variable in its environment.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.proxies import free_port

MARK = "CRUMB_TEST_NODE"


@dataclass
class RayCluster:
    """Raylets of this machine.

    Attributes:
        folder: Short, since paths of sockets have a limit.
        environment: What the nodes and their drivers share: how they authenticate.
        port: Of the head.
    """

    folder: Path
    environment: dict[str, str]
    port: int
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, name: str, settings: dict[str, str], cpus: int) -> None:
        """Start a node of this name; the first one is the head."""
        where = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.folder}"]
        where = where if not self.marks else [f"--address={self.address}"]
        self.marks[name] = secrets.token_hex(8)
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "TZ") if key in os.environ}
        kept["RAY_worker_niceness"] = "0"  # as the guide has it for nodes that do other work: actors starve else
        subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *where, f"--node-name={name}", f"--num-cpus={cpus}",
             "--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"],
            env=kept | self.environment | settings | {MARK: self.marks[name], "HOME": str(self.folder)},
            check=True,
            capture_output=True,
            timeout=120,
        )  # fmt: skip

    def processes(self, name: str) -> list[int]:
        """Return the processes of a node: the raylet, its helpers, actors and sandboxes."""
        wanted, found = f"{MARK}={self.marks[name]}".encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if wanted in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found

    def kill(self, name: str) -> None:
        """Kill a node at once, as when its machine loses power."""
        for _ in range(3):  # some start others meanwhile
            for pid in self.processes(name):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def open_ray() -> Iterator[RayCluster]:
    """Yield a cluster without nodes; kill those that were started."""
    folder = Path(tempfile.mkdtemp(prefix="cr", dir="/tmp"))
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = RayCluster(folder, environment, free_port())
    try:
        yield cluster
    finally:
        for name in cluster.marks:
            cluster.kill(name)
        shutil.rmtree(folder, ignore_errors=True)
