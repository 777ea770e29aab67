"""What the processes of a server share: made before the first of them is forked, and joined by each."""

from pathlib import Path

from registry.server.processes.counters import Counters
from registry.server.processes.locks import Lock
from registry.server.processes.places import Places

MOST_COUNTERS = 2**16  # addresses and tokens whose requests are counted


class Shared:
    """Counts that hold over all processes of a server.

    Args:
        downloads: The most files sent at a time.
        composing: The most files composed at a time while they are sent.
        streams: The most streams of events at a time.
        processes: How many processes there are.
        folder: A folder for the files of several processes; None for one.

    Attributes:
        process: The number of this process.
    """

    def __init__(
        self, downloads: int, composing: int, streams: int, processes: int = 1, folder: Path | None = None
    ) -> None:
        self.folder, self.process = folder, 0
        self.lock = Lock(folder and folder / "lock")
        self.counters = Counters(MOST_COUNTERS, self.lock)
        self.downloads = Places(downloads, self.lock, processes)
        self.composing = Places(composing, self.lock, processes)
        self.streams = Places(streams, self.lock, processes)

    def join(self, process: int) -> None:
        """Be the process of a number, from 0 on."""
        self.process = process
        self.lock.join()
        for places in (self.downloads, self.composing, self.streams):
            places.join(process)

    def free(self, process: int) -> None:
        """Free what a process held that has died."""
        for places in (self.downloads, self.composing, self.streams):
            places.free(process)
