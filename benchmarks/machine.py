"""What a result says of the machine and the programs; no names of hosts, people or folders."""

import os
import platform
import re
import resource
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.measure import ROOT
from registry.files.threads import processors

MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - in memory
PACKAGES = ("torch", "numba", "numpy", "triton", "cuda-core", "nvidia-cuda-nvrtc")
VECTORS = ("avx512_vbmi2", "avx512f", "avx2", "asimd")


def describe_machine() -> dict[str, str]:
    """Return facts about this machine, by what they are called."""
    found = {
        "processor": _cpu(),
        "cores": str(processors()),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "system": _system(),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package).partition("+")[0]
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
    found["revision"] = _revision()
    return found


class Others:
    """Finds what part of the processors others took since it was made: whatever ran that was neither us nor ours."""

    def __init__(self) -> None:
        self._began, self._all, self._own = time.monotonic(), _busy(), _own()

    def share(self) -> float:
        """Return that part, of all processors; 0 where the system does not tell."""
        most = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return max(0.0, (_busy() - self._all) - (_own() - self._own)) / most


def _busy() -> float:
    """Return the seconds that all processors were busy since the system started."""
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    user, nice, system, _, _, *interrupts = map(int, words[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Return the processor time of this process and of those that it started and that have ended."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def filesystem_of(path: Path) -> str:
    """Return the kind of file system that holds a path, like tmpfs or ext4."""
    best, kind = -1, "unknown"
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return kind
    for line in lines:
        mount = Path(line.split()[1])
        if path.resolve().is_relative_to(mount) and len(mount.parts) > best:
            best, kind = len(mount.parts), line.split()[2]
    return kind


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    fields: dict[str, str] = dict(re.findall(r"^(\S[^\t:]*?)\s*:\s*(.*)$", text, re.MULTILINE))
    flags = str(fields.get("flags", fields.get("Features", ""))).split()
    vector = next((flag for flag in VECTORS if flag in flags), None)
    family = [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return ", ".join([fields.get("model name", platform.machine()), *family, *([vector] if vector else [])])


def _system() -> str:
    """Return the kernel's name and number, without what builders append to it."""
    number = re.match(r"[0-9.]*[0-9]", platform.release())
    return f"{platform.system()} {number[0] if number else ''}".strip()


def _revision() -> str:
    """Return the commit that was measured; a star when files differ from it."""
    try:
        commit = _git(["rev-parse", "--short=12", "HEAD"])
        changed = _git(["status", "--porcelain", "--", "registry", "client"])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("*" if changed else "")


def _git(arguments: Sequence[str]) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
