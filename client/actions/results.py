"""Results of pull, push, compose, diff, apply and of deltas, with a table for notebooks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from client.terminal.cards import Card
from client.terminal.console import size
from client.terminal.recipes import describe_recipe
from registry.files.beside import FileChange

if TYPE_CHECKING:  # else `diff` and `apply` would wait for shapes of which they have none
    from registry.schemas import Composition, Patch, Snapshot


@dataclass(frozen=True, slots=True, repr=False)
class MadePatch(Card):
    """A patch file that `diff` wrote.

    Args:
        file: Where it is.
        sha256: Of the file.
        size: Of the file, in bytes.
        base: Weights digest of the base that the patch is for.
        tensors: Number of tensors that it changes.
        nnz: Number of weights that it changes.
        parameters: Number of weights of the base.
        model_size: Of the base's weights, in bytes.
        adapter: The method of the adapter that the tuned model was, such as LoRA; None if it was none.
        adapter_base: The model that the adapter names as its base, if any.
        prefix: What was taken from the names of one side for them to fit; empty if they did.
        left_out_tensors: Those that were left out because both sides do not share them, each with the reason.
        relative_change: norm(tuned - base) / norm(base) of the tensors that were compared; None if they are 0 in the
            base.
        matrix_change: The same of tensors of two dimensions or more.
        shared_rows: How many rows were compared of each tensor that has more or fewer of them in the tuned model.
        left_out: Files of `base` and of `tuned` that may hold weights and are no part of the model.
        notes: Sentences about what the patch leaves out.
        beside: Files beside the weights that differ from the base's; the patch does not carry them.
        companion: The file of what only the tuned model has, if it was asked for and there is something.
        only_tuned: dtype and shape of the tensors in it, by name.
    """

    file: Path
    sha256: str
    size: int
    base: str
    tensors: int
    nnz: int
    parameters: int
    model_size: int
    adapter: str | None = None
    adapter_base: str | None = None
    prefix: str = ""
    left_out_tensors: tuple[str, ...] = ()
    shared_rows: Mapping[str, int] = field(default_factory=dict)
    relative_change: float | None = None
    matrix_change: float | None = None
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    beside: list[FileChange] = field(default_factory=list)
    companion: Path | None = None
    only_tuned: Mapping[str, str] = field(default_factory=dict)

    @property
    def density(self) -> float:
        """The share of the base's weights that the patch changes, 0 to 1."""
        return self.nnz / self.parameters

    def rows(self) -> list[tuple[str, str]]:
        """Return what `crumb diff` shows."""
        adapter = [("adapter", f"{self.adapter}, trained on {self.adapter_base or 'a base that it does not name'}")]
        return [
            ("patch", str(self.file)),
            ("sha256", self.sha256),
            ("base", self.base),
            *(adapter if self.adapter else []),
            (
                "changes",
                f"{self.nnz:,} of {self.parameters:,} weights ({self.density:.2%}) in {self.tensors} tensors",
            ),
            *([] if self.relative_change is None else [("moved", f"{self.relative_change:.3g} of norm(base)")]),
            (
                "size",
                f"{size(self.size)}, {self.size / self.model_size:.1%} of the model's {size(self.model_size)}",
            ),
            *([("companion", f"{self.companion}, {len(self.only_tuned)} tensors")] if self.companion else []),
            *([("beside", ", ".join(change.path for change in self.beside))] if self.beside else []),
        ]


@dataclass(frozen=True, slots=True, repr=False)
class PulledModel(Card):
    """A model that was pulled.

    Args:
        snapshot: What it is: model, ref, weights digest, recipe, files.
        folder: Where it is.
        moved: Bytes of files that came from the registry for it.
        saved: How many more would have come if nothing had been made of what was on this machine.
        patches_here: How many of its patches were on this machine; None if it was not composed here.
    """

    snapshot: "Snapshot"
    folder: Path
    moved: int = 0
    saved: int = 0
    patches_here: int | None = None

    @property
    def composed(self) -> bool:
        """Whether the weights were composed on this machine."""
        return self.patches_here is not None

    @property
    def saving(self) -> str:
        """What moved in place of the whole, and why; empty if nothing was saved."""
        if not self.saved:
            return ""
        count = len(self.snapshot.recipe.patches) if self.snapshot.recipe is not None else 0
        what = "files of the base were" if not self.composed else "the base was"
        if self.patches_here:
            patches = f"{self.patches_here} of {count} patches" if count > 1 else "the patch"
            what = f"the base and {patches} were"
        return f"moved {size(self.moved)} instead of {size(self.moved + self.saved)}: {what} here"

    def rows(self) -> list[tuple[str, str]]:
        """Return what `crumb pull` shows, and the registry's warnings."""
        files = self.snapshot.files
        total = sum(file.size for file in files)
        return [
            ("model", f"{self.snapshot.model}@{self.snapshot.ref}"),
            ("weights", self.snapshot.weights_digest),
            ("folder", f"{self.folder}, {len(files)} files, {size(total)}, verified"),
            *([("saved", self.saving)] if self.saved else []),
            *(("warning", warning) for warning in self.snapshot.warnings),
        ]


@dataclass(frozen=True, slots=True, repr=False)
class MadeDelta(Card):
    """A delta file that `make_delta` wrote.

    Args:
        file: Where it is.
        sha256: Of the file.
        size: Of the file, in bytes.
        before, after: Weights digests of the two revisions.
        tensors: Number of tensors that differ.
        nnz: Number of weights that differ.
        model_size: Of the later revision's weights, in bytes.
        carried: Files beside the weights that it holds whole, since they differ.
    """

    file: Path
    sha256: str
    size: int
    before: str
    after: str
    tensors: int
    nnz: int
    model_size: int
    carried: list[str]

    def rows(self) -> list[tuple[str, str]]:
        """Return what `crumb delta` shows."""
        share = f"{self.size / max(self.model_size, 1):.1%} of the model's {size(self.model_size)}"
        return [
            ("delta", str(self.file)),
            ("sha256", self.sha256),
            ("before", self.before),
            ("after", self.after),
            ("differ", f"{self.nnz:,} weights in {self.tensors} tensors"),
            *([("files", ", ".join(self.carried))] if self.carried else []),
            ("size", f"{size(self.size)}, {share}"),
        ]


@dataclass(frozen=True, slots=True, repr=False)
class AppliedDelta(Card):
    """A model that a delta made.

    Args:
        folder: Where it is.
        weights_digest: Of its weights.
        model: NS/NAME; empty where the delta does not say.
        ref: Its name at the registry, likewise.
        files: Number of its files.
    """

    folder: Path
    weights_digest: str
    model: str
    ref: str
    files: int

    def rows(self) -> list[tuple[str, str]]:
        """Return what `crumb apply-delta` shows."""
        return [
            *([("model", f"{self.model}@{self.ref}")] if self.model else []),
            ("weights", self.weights_digest),
            ("folder", f"{self.folder}, {self.files} files, verified"),
        ]


@dataclass(frozen=True, slots=True, repr=False)
class PushedPatch(Card):
    """A patch at the registry.

    Args:
        patch: All that the registry says about it.
    """

    patch: "Patch"

    @property
    def number(self) -> int:
        """The patch's number in its model."""
        return self.patch.number

    @property
    def revision(self) -> int:
        """The patch's newest revision."""
        return self.patch.revision

    def rows(self) -> list[tuple[str, str]]:
        """Return what `crumb push` shows."""
        patch = self.patch
        density = "" if patch.density is None else f"density {patch.density:.2%}, "
        return [
            ("patch", f"{patch.model}#{patch.number}.{patch.revision}"),
            ("title", patch.title),
            ("author", patch.author),
            ("state", f"{patch.check}, {patch.state}"),
            ("size", f"{density}{size(patch.size)}"),
            ("sha256", patch.sha256),
            *([("files", ", ".join(file.path for file in patch.files))] if patch.files else []),
        ]


@dataclass(frozen=True, slots=True, repr=False)
class ComposedModel(Card):
    """A model composed at the registry.

    Args:
        model: NS/NAME.
        composition: The recipe, and the weights digest of the result.
    """

    model: str
    composition: "Composition"

    @property
    def address(self) -> str:
        """What `pull` takes: NS/NAME@RECIPE."""
        return f"{self.model}@{self.composition.recipe.digest}"

    def rows(self) -> list[tuple[str, str]]:
        """Return what `crumb compose` shows."""
        recipe = self.composition.recipe
        rows = [
            ("model", self.model),
            ("recipe", recipe.digest),
            ("weights", self.composition.weights_digest or "-"),
            ("patches", describe_recipe(recipe)),
        ]
        if self.composition.seconds is not None:
            rows.append(("computed", f"on {self.composition.device or '?'} in {self.composition.seconds:.1f} s"))
        rows += [("warning", warning) for warning in self.composition.warnings]
        return rows


@dataclass(frozen=True, slots=True, repr=False)
class Applied(Card):
    """A model that `apply` composed.

    Args:
        folder: Where it is.
        weights_digest: Of the model.
        recipe: Digest of the recipe.
        base: Weights digest of the base.
        device: Where it was computed.
        seconds: How long that took.
        left_out: Files of the base that may hold weights and are no part of the model; they were not copied.
        warnings: What to know before using it, a sentence each.
    """

    folder: Path
    weights_digest: str
    recipe: str
    base: str
    device: str
    seconds: float
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, str]]:
        """Return what `crumb apply` shows."""
        return [
            ("model", str(self.folder)),
            ("recipe", self.recipe),
            ("weights", self.weights_digest),
            ("computed", f"on {self.device} in {self.seconds:.1f} s"),
        ]
