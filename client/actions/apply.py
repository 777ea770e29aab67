"""Patches on a local base, without a registry: like `git apply`."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.actions.push import patch_base
from client.machine.folders import copy_others, new_folder
from client.terminal.console import Console
from registry.errors import InvalidCheckpoint, InvalidRecipe, NotFound

QUIET = Console(quiet=True)
CARD_BYTES = 2**20  # longest README.md of a base that is carried into the new card


@dataclass(frozen=True, slots=True)
class Applied:
    """What came out: digests, where it was computed, and how long that took in seconds."""

    weights_digest: str
    recipe: str
    base: str
    device: str
    seconds: float


def apply(
    base: Path,
    patches: Sequence[tuple[Path, str]],
    folder: Path,
    *,
    alpha: str = "0.3",
    device: str = "auto",
    device_memory: int | None = None,
    name: str | None = None,
    console: Console = QUIET,
) -> Applied:
    """Write base + alpha * sum(weight * patch) as a whole model folder, which appears at once or not at all.

    Args:
        base: A model folder or a .safetensors file.
        patches: (patch file, weight as a decimal).
        folder: Where the model is to be; nothing, or an empty folder.
        alpha: The scale of all patches, a decimal.
        device: auto, cpu or cuda.
        device_memory: Most bytes to use on a GPU; see `compose`.
        name: What the card calls the base; its weights digest when None.
        console: Where notes and progress go.

    Raises:
        WrongState: The folder is there and not empty.
        InvalidPatch, BaseMismatch: A patch is not sound, or for another base.
        NotFinite: The composition overflows.
    """
    from registry.breadcrumbs.formats.recipe import make_recipe

    digest = patch_base(patches[0][0])  # compose() holds the base to it, and check_patches() the other patches

    from registry.breadcrumbs.checking.check import check_patches
    from registry.breadcrumbs.composing.compose import compose
    from registry.breadcrumbs.formats.checkpoint import open_checkpoint
    from registry.breadcrumbs.formats.patchfile import open_patch
    from registry.documents.composed_card import CardItem, render_card

    with new_folder(folder) as out, contextlib.ExitStack() as stack:
        checkpoint = stack.enter_context(open_checkpoint(base))
        with console.progress("checking patches") as progress:
            reports = check_patches([path for path, _ in patches], digest, checkpoint.tensors, progress)
        digests = [report.sha256 for report in reports]
        if len(set(digests)) < len(digests):
            raise InvalidRecipe("The same patch is named twice; add its weights up instead.", field="patches")
        recipe = make_recipe(digest, alpha, [(sha, weight) for sha, (_, weight) in zip(digests, patches, strict=True)])
        opened = {sha: stack.enter_context(open_patch(path)) for sha, (path, _) in zip(digests, patches, strict=True)}
        with console.progress("composing") as progress:
            composed = compose(checkpoint, opened, recipe, out, device, progress, device_memory=device_memory)
        assert composed.weights_digest is not None
        copy_others(base, out, list(composed.files))
        items = [CardItem(sha, None, path.name) for sha, (path, _) in zip(digests, patches, strict=True)]
        card = render_card(folder.absolute().name, name or digest, recipe, composed.weights_digest, items, _card(base))
        (out / "README.md").write_text(card, "utf-8")
    return Applied(composed.weights_digest, recipe.digest, digest, composed.device, composed.seconds)


def _card(base: Path) -> str | None:
    card = base / "README.md"
    if base.is_file() or not card.is_file() or card.stat().st_size > CARD_BYTES:
        return None
    try:
        return card.read_text("utf-8")
    except UnicodeDecodeError as why:
        raise InvalidCheckpoint(f"{card} is not UTF-8 text; remove it or save it again.") from why
    except FileNotFoundError as why:
        raise NotFound(f"There is no {card}.") from why
