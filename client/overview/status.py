"""Status of a pulled folder: what it is, whether it is complete, and what is newer."""

from dataclasses import dataclass, field
from pathlib import Path

from client.api.client import Client
from client.machine.folders import read_source
from client.terminal.addresses import is_digest, is_version
from registry.errors import InvalidRequest, NotFound
from registry.schemas import Snapshot


@dataclass(frozen=True, slots=True)
class PulledFolder:
    """A folder that `pull` wrote.

    Args:
        folder: Where it is.
        model: NS/NAME.
        ref: What was pulled: a version, `base` or a recipe digest.
        weights_digest: Of what was pulled.
        complete: Whether the pull came to its end.
        missing: Files of it that are not there any more.
        channels: Channels on which this version is, or was, with the release that each points at now.
        newest: What the model's name without a reference stands for now.
        warnings: What the registry says against what was pulled.
    """

    folder: Path
    model: str
    ref: str
    weights_digest: str
    complete: bool
    missing: list[str]
    channels: dict[str, str] = field(default_factory=dict)
    newest: str | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        """What was pulled: NS/NAME@REF."""
        return f"{self.model}@{self.ref[:12] if is_digest(self.ref) else self.ref}"

    @property
    def newer(self) -> list[str]:
        """References of what is newer: channels that have moved on, else what the model's name stands for."""
        moved = [name for name, release in self.channels.items() if release != self.ref]
        return moved or (["main"] if not self.channels and self.newest not in (None, self.ref) else [])


def status_of(folder: Path) -> PulledFolder:
    """Return what a folder was pulled from, without asking the registry.

    Raises:
        NotFound: There is no such folder.
        InvalidRequest: The folder was not pulled.
    """
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}.")
    source = read_source(folder)
    if source is None or not source.model:
        raise InvalidRequest(f"{folder} was not pulled; `crumb pull NS/NAME -o DIR` writes such a folder.")
    missing = sorted(path for path in source.files if not (folder / path).is_file())
    return PulledFolder(folder, source.model, source.ref, source.weights_digest, source.complete, missing)


def look_up(client: Client, pulled: PulledFolder) -> PulledFolder:
    """Return a pulled folder's status with what the registry says of it."""
    from dataclasses import replace

    newest: Snapshot = client.snapshot(pulled.model)
    warnings = client.snapshot(pulled.model, pulled.ref).warnings
    channels = {}
    if is_version(pulled.ref):
        for channel in client.channels(pulled.model):
            if channel.release is not None and (
                channel.release == pulled.ref
                or any(move.release == pulled.ref for move in client.channel_history(pulled.model, channel.name))
            ):
                channels[channel.name] = channel.release
    return replace(pulled, channels=channels, newest=newest.ref, warnings=warnings)
