"""The bench: models composed on this machine, one after another, for a person's command to be run on each.

A candidate is base + sum(scale x patch), or what another method makes of them, whether or not the registry knows it.
It is composed from the base and the patches in the cache, so the right to read is enough and nothing is left at the
registry. running.py runs commands.
"""

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.actions.composing import open_cached
from client.api.client import Client
from client.machine.folders import copy_files, new_folder
from client.terminal.console import Console
from client.trials.scratch import ScratchModel
from registry.documents.versions import effective_scale
from registry.errors import BreadcrumbError, InvalidRequest, JobFailed
from registry.files.durable import storage_error
from registry.files.folders import carried
from registry.files.progress import Progress
from registry.schemas import RecipeItem, Snapshot

if TYPE_CHECKING:
    from client.live.weights import LiveWeights
    from registry.breadcrumbs.composing.scratch import ScratchWeights
    from registry.breadcrumbs.formats.checkpoint import Checkpoint
    from registry.breadcrumbs.formats.patchfile import Patch
    from registry.breadcrumbs.formats.recipe import Recipe

QUIET = Console(quiet=True)
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


@dataclass(slots=True)
class Bench:
    """A base and patches, opened once for all candidates that are tried; made by `bench`.

    Args:
        base: Weights digest of the base.
        checkpoint: The base.
        files: All of its files: path in the folder -> file.
        patches: By their sha256.
        device: auto, cpu or cuda.
        keep: Where models are kept, each in a folder of its own; when None, folders are used again.
        console: Where notes and progress go.
        scratch: An empty folder for scratch models.
        checked: Whether the base's weights digest was checked.
        ended: Ends a composition once it is set, for threads that no signal reaches.
    """

    base: str
    checkpoint: "Checkpoint"
    files: Mapping[str, Path]
    patches: Mapping[str, "Patch"]
    device: str
    keep: Path | None
    console: Console
    scratch: Path
    checked: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    _idle: list[ScratchModel] = field(default_factory=list)  # as many as candidates were tried at a time
    _loaded: "tuple[Any, LiveWeights] | None" = None

    @contextlib.contextmanager
    def model(self, candidate: Candidate, name: str) -> Iterator[Path]:
        """Compose a candidate and yield its folder, with the base's config and tokenizer but not its card.

        Unless it is kept, the folder is used again for the next candidate once the block ends.
        """
        if self.keep is not None:
            with new_folder(self.keep / name) as folder, self._composing(name) as progress:
                copy_files(self._others(), folder)
                self._weights(folder).compose(candidate.recipe(), progress, check_base=not self.checked)
            self.checked = True
            yield self.keep / name
            return
        scratch = self._idle.pop() if self._idle else self._new_scratch()
        try:
            with self._composing(name) as progress:
                folder = scratch.compose(candidate.recipe(), name, progress, check_base=not self.checked)
            self.checked = True
            yield folder
        finally:
            self._idle.append(scratch)

    def loaded(self, candidate: Candidate, name: str, load: Callable[[Path], Any]) -> Any:
        """Put a candidate into a torch module, which is loaded from the base's files when this is first called."""
        if self._loaded is None:
            from client.live.weights import LiveWeights

            folder = self.scratch / "base"
            for path, file in {**self._others(), **self.checkpoint.files}.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).symlink_to(file.resolve())
            for path in self.checkpoint.indexes:
                (folder / path).symlink_to(self.files[path].resolve())
            module, nothing = load(folder), Candidate(self.base, ()).recipe()
            live = LiveWeights(module, self.checkpoint, self.patches, nothing, self.base, device=self.device)
            self._loaded = module, live
        module, live = self._loaded
        with self._composing(name) as progress:
            live.compose(candidate.recipe(), progress)
        return module

    @contextlib.contextmanager
    def _composing(self, name: str) -> Iterator[Progress]:
        with self.console.progress(f"composing {name}") as show:

            def progress(done: int, total: int) -> None:
                if self.ended.is_set():
                    raise JobFailed("The composition was ended.")
                show(done, total)

            try:
                yield progress
            except BreadcrumbError:
                raise
            except OSError as why:
                raise storage_error(why, self.keep or self.scratch) from why

    def _new_scratch(self) -> ScratchModel:
        try:
            return ScratchModel(Path(tempfile.mkdtemp(dir=self.scratch)), self._others(), self._weights)
        except OSError as why:
            raise storage_error(why, self.scratch) from why

    def _weights(self, folder: Path) -> "ScratchWeights":
        from registry.breadcrumbs.composing.scratch import ScratchWeights

        return ScratchWeights(self.checkpoint, self.patches, folder, self.device)

    def _others(self) -> dict[str, Path]:
        return {path: self.files[path] for path in carried(self.files, self.checkpoint.indexes)}


@contextlib.contextmanager
def open_bench(
    base: str,
    checkpoint: "Checkpoint",
    files: Mapping[str, Path],
    patches: Mapping[str, "Patch"],
    *,
    device: str = "cpu",
    keep: Path | None = None,
    console: Console = QUIET,
) -> Iterator[Bench]:
    """Open a bench, whose scratch models are removed at the end; see `Bench`."""
    try:
        scratch = tempfile.TemporaryDirectory(prefix="crumb-")
    except OSError as why:
        raise storage_error(why, Path(tempfile.gettempdir())) from why
    with scratch as folder:
        yield Bench(base, checkpoint, files, patches, device, keep, console, Path(folder))


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
        keep: The folder that models are kept in, each in one of its own; when None, they are removed at the end.
        console: Where notes and progress go.
    """
    candidates = list(candidates)
    (base,) = {candidate.base for candidate in candidates}
    items = {patch.item.sha256: patch.item for candidate in candidates for patch in candidate.patches}
    with (
        open_cached(client, model, base, items.values(), console=console) as (files, checkpoint, patches),
        open_bench(base, checkpoint, files, patches, device=device, keep=keep, console=console) as opened,
    ):
        yield opened


def item_of(sha256: str, weight: str, number: int, revision: int, title: str) -> RecipeItem:
    """Return a patch at a weight as an item of a recipe, without what composing does not need."""
    return RecipeItem(
        sha256=sha256,
        weight=weight,
        number=number,
        revision=revision,
        title=title,
        author=None,
        license=None,
        state=None,
    )


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
