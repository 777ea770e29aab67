"""Results: a pulled model, a pushed patch and a composed model, with a table for notebooks."""

from dataclasses import dataclass
from pathlib import Path

from client.terminal.cards import Card
from client.terminal.console import size
from client.terminal.recipes import describe_recipe
from registry.schemas import Composition, Patch, Snapshot


@dataclass(frozen=True, slots=True, repr=False)
class PulledModel(Card):
    """A model that was pulled.

    Args:
        snapshot: What it is: model, ref, weights digest, recipe, files.
        folder: Where it is.
    """

    snapshot: Snapshot
    folder: Path

    def rows(self) -> list[tuple[str, str]]:
        """Return what `crumb pull` shows, and the registry's warnings."""
        files = self.snapshot.files
        total = sum(file.size for file in files)
        return [
            ("model", f"{self.snapshot.model}@{self.snapshot.ref}"),
            ("weights", self.snapshot.weights_digest),
            ("folder", f"{self.folder}, {len(files)} files, {size(total)}, verified"),
            *(("warning", warning) for warning in self.snapshot.warnings),
        ]


@dataclass(frozen=True, slots=True, repr=False)
class PushedPatch(Card):
    """A patch at the registry.

    Args:
        patch: All that the registry says about it.
    """

    patch: Patch

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
        ]


@dataclass(frozen=True, slots=True, repr=False)
class ComposedModel(Card):
    """A model composed at the registry.

    Args:
        model: NS/NAME.
        composition: The recipe, and the weights digest of the result.
    """

    model: str
    composition: Composition

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
        return rows
