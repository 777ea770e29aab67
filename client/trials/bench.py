"""The bench: models composed on this machine, and a person's command run on each.

A candidate is base + sum(scale x patch), or what another method makes of them, whether or not the registry knows it.
It is composed from the base and the patches in the cache, so the right to read is enough and nothing is left at the
registry. A command is run without a shell; `{model}` in an argument becomes the folder of the model, which is the last
argument if no argument has it, and $CRUMB_MODEL in any case.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.actions.composing import open_cached
from client.actions.verify import CARD
from client.api.client import Client
from client.machine.folders import check_vacant
from client.terminal.console import Console
from registry.documents.versions import effective_scale
from registry.errors import BreadcrumbError, InvalidRequest, JobFailed
from registry.files.durable import storage_error
from registry.schemas import RecipeItem, Snapshot

if TYPE_CHECKING:
    from registry.breadcrumbs.formats.checkpoint import Checkpoint
    from registry.breadcrumbs.formats.patchfile import Patch
    from registry.breadcrumbs.formats.recipe import Recipe

QUIET = Console(quiet=True)
OUTPUT = 16 * 2**20  # bytes of a command's output that are kept, its last ones
PATIENCE = 1.0  # seconds that a command has to end when crumb must
HOLDER = "{model}"
DIGITS = 20  # on either side of the point, as many as a recipe takes


@dataclass(frozen=True, slots=True)
class ScaledPatch:
    """A patch and its scale in a candidate, an exact decimal: alpha times weight with `sum`, elsewhere the weight."""

    item: RecipeItem
    scale: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A composition, whether or not the registry knows it.

    Args:
        base: A weights digest.
        patches: What is combined.
        method: How.
        alpha: By what that is multiplied; 1 with `sum`, where it is part of the scales.
    """

    base: str
    patches: tuple[ScaledPatch, ...]
    method: str = "sum"
    alpha: str = "1"

    def recipe(self) -> "Recipe":
        """Return its recipe."""
        from registry.breadcrumbs.formats.recipe import Item, make_recipe

        items = [Item(patch.item.sha256, patch.scale, tuple(patch.item.where)) for patch in self.patches]
        return make_recipe(self.base, self.alpha, items, self.method)


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a command: its exit code (or minus the signal that ended it), the end of its stdout, seconds."""

    code: int
    output: str
    seconds: float


@dataclass(slots=True)
class Bench:
    """A base and patches, opened once for all candidates that are tried; made by `bench`.

    Args:
        base: Weights digest of the base.
        checkpoint: The base.
        files: All of its files: path in the folder -> file.
        patches: By their sha256.
        device: auto, cpu or cuda.
        keep: Where models are kept; each is removed after its trial when None.
        console: Where notes and progress go.
        checked: Whether the base's weights digest was checked.
    """

    base: str
    checkpoint: "Checkpoint"
    files: Mapping[str, Path]
    patches: Mapping[str, "Patch"]
    device: str
    keep: Path | None
    console: Console
    checked: bool = False

    @contextlib.contextmanager
    def model(self, candidate: Candidate, name: str) -> Iterator[Path]:
        """Compose a candidate and yield its folder, with the base's config and tokenizer but not its card."""
        with contextlib.ExitStack() as stack:
            place = self.keep
            try:
                if place is None:
                    place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crumb-")))
                check_vacant(place / name)
                self._compose(candidate, place / name)
            except BreadcrumbError:
                raise
            except OSError as why:
                raise storage_error(why, place or Path(tempfile.gettempdir())) from why
            yield place / name

    def _compose(self, candidate: Candidate, folder: Path) -> None:
        from registry.breadcrumbs.composing.compose import compose

        folder.mkdir(parents=True, exist_ok=True)
        recipe = candidate.recipe()
        with self.console.progress(f"composing {folder.name}") as progress:
            compose(self.checkpoint, self.patches, recipe, folder, self.device, progress, digests=not self.checked)
        self.checked = True
        for path, file in self.files.items():
            if path != CARD and path not in self.checkpoint.files:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / path)


@contextlib.contextmanager
def bench(
    client: Client,
    model: str,
    candidates: Iterable[Candidate],
    *,
    device: str = "cpu",
    keep: Path | None = None,
    console: Console = QUIET,
) -> Iterator[Bench]:
    """Download the base and patches of these candidates into the cache, and open them.

    Args:
        client: The registry.
        model: NS/NAME.
        candidates: They must have the same base.
        device: auto, cpu or cuda; on a GPU, the base stays there beside what the commands need.
        keep: The folder that models are kept in; they are removed when None.
        console: Where notes and progress go.
    """
    candidates = list(candidates)
    (base,) = {candidate.base for candidate in candidates}
    items = {patch.item.sha256: patch.item for candidate in candidates for patch in candidate.patches}
    with open_cached(client, model, base, items.values(), console=console) as (files, checkpoint, patches):
        yield Bench(base, checkpoint, files, patches, device, keep, console)


def candidate_of(snapshot: Snapshot) -> Candidate:
    """Return a snapshot as a candidate.

    Raises:
        InvalidRequest: A scale has more digits than a recipe takes.
    """
    if snapshot.recipe is None:
        return Candidate(snapshot.weights_digest, ())
    recipe = snapshot.recipe
    if recipe.method != "sum":
        return Candidate(
            recipe.base, tuple(ScaledPatch(item, item.weight) for item in recipe.patches), recipe.method, recipe.alpha
        )
    patches = [ScaledPatch(item, exact_scale(recipe.alpha, item.weight)) for item in recipe.patches]
    return Candidate(recipe.base, tuple(patches))


def exact_scale(alpha: str, weight: str) -> str:
    """Return alpha x weight as a decimal that a recipe takes.

    Raises:
        InvalidRequest: The product has more digits than a recipe takes.
    """
    scale = effective_scale(alpha, weight)
    if any(len(side) > DIGITS for side in scale.lstrip("-").split(".")):
        raise InvalidRequest(
            f"alpha {alpha} times weight {weight} has more than {DIGITS} digits on a side of the point; "
            "only scales with fewer can be tried.",
            field="alpha",
        )
    return scale


def check_command(command: Sequence[str]) -> None:
    """Check that a command can be found, before anything is downloaded for it.

    Raises:
        InvalidRequest: No command is given, or there is no such command.
    """
    if not command:
        raise InvalidRequest("No command is given; write it after two dashes: -- COMMAND ARGUMENT…", field="command")
    if HOLDER not in command[0] and shutil.which(command[0]) is None:
        raise InvalidRequest(f"There is no command {command[0]!r} that can be run here.", field="command")


def run_command(command: Sequence[str], folder: Path) -> Trial:
    """Run a command on a model's folder and wait for it; stderr and stdin stay the terminal's.

    Raises:
        InvalidRequest: The command cannot be run.
    """
    words = [word.replace(HOLDER, str(folder)) for word in command]
    if not any(HOLDER in word for word in command):
        words.append(str(folder))
    start, output = time.monotonic(), bytearray()
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, "CRUMB_MODEL": str(folder)})
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) and why.strerror else str(why)
        raise InvalidRequest(f"The command {words[0]!r} cannot be run: {reason}.", field="command") from why
    with process:
        assert process.stdout is not None
        try:
            while block := os.read(process.stdout.fileno(), 2**16):
                output += block
                if len(output) > 2 * OUTPUT:
                    del output[:-OUTPUT]
            code = process.wait()
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()
            raise
    return Trial(code, output[-OUTPUT:].decode("utf-8", "replace"), time.monotonic() - start)


def run_successfully(command: Sequence[str], folder: Path, what: str) -> Trial:
    """Run a command on a model and return what it did.

    Args:
        command: See `run_command`.
        folder: Of the model.
        what: The model's name, for the message.

    Raises:
        JobFailed: The command ended with another exit code than 0.
    """
    trial = run_command(command, folder)
    if trial.code:
        raise JobFailed(f"The command failed on {what}: {ending(trial.code)}.")
    return trial


def ending(code: int) -> str:
    """Return how a command ended, in words."""
    return f"signal {-code} ended it" if code < 0 else f"exit code {code}"
