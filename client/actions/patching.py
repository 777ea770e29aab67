"""Diff and apply: patches made of models on this machine, and put onto them, without a registry."""

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from client.actions.results import Applied, MadePatch
from client.machine.folders import check_vacant, compare_beside, copy_others, new_folder
from client.machine.known_files import checked_base
from client.machine.patch_files import alpha_of_files, factors_of, open_checked, patch_base
from client.machine.sources import resolve
from client.terminal.addresses import decimal, parse_file
from client.terminal.console import Console
from registry.breadcrumbs.comparing.alpha import AUTO
from registry.breadcrumbs.formats.weight_files import tell_left_out
from registry.errors import InvalidCheckpoint, InvalidRecipe, InvalidRequest, NotFound, WrongState
from registry.files.kinds import name_kind

if TYPE_CHECKING:
    from registry.breadcrumbs.formats.checkpoint import Checkpoint, Weights

QUIET = Console(quiet=True)
HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
CARD_BYTES = 2**20  # longest README.md of a base that is carried into the new card

PatchChoice = str | Path | tuple[str | Path, str | float]
"""A patch file: `FILE`, `FILE:WEIGHT`, or the file and its weight; the weight is 1 if left out."""

OpenTuned = Callable[["Checkpoint"], contextlib.AbstractContextManager["Weights"]]
"""Opens a tuned model that is not on disk, given its base."""


def diff(
    base: str | Path | Mapping[str, Path],
    tuned: str | Path | OpenTuned,
    out: str | Path,
    *,
    drop_bottom: str | float = "0.85",
    drop_top: str | float = "0.007",
    granularity: str = "tensor",
    value_dtype: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    strip_prefix: str | None = None,
    shared_only: bool = False,
    shared_rows: bool = False,
    companion: bool = False,
    device: str = "cpu",
    device_memory: int | None = None,
    named: str | None = None,
    console: Console = QUIET,
) -> MadePatch:
    """Make a breadcrumb patch of what fine-tuning changed.

    Args:
        base: The model before: a .safetensors file, a model folder, or a Hub id `org/name[@revision]`; or the files of
            a folder, by their paths in it.
        tuned: The model after, likewise; or an adapter for the base, of PEFT, kohya, LyCORIS or diffusers; or what
            opens a model that runs.
        out: The patch file to write.
        drop_bottom: Share of the smallest changes to leave out, 0 to 1.
        drop_top: Share of the largest changes to leave out, 0 to 1.
        granularity: `tensor` or `row`: what the shares are of.
        value_dtype: Type of the stored changes: BF16, F16, F32, or auto for the base's.
        include: Only tensors whose name matches one of these globs; all when empty.
        exclude: No tensors whose name matches one of these globs.
        strip_prefix: Taken from the names of the side that has it, like `module.`; found by itself when None.
        shared_only: Leave out tensors that only one side has, or that have other shapes.
        shared_rows: Compare the rows that both have of tensors that differ in their first dimension only.
        companion: Write the tensors and rows that only the tuned model has, and that were left out, to a file beside
            `out`: `sums.companion.safetensors` beside `sums.safetensors`.
        device: auto, cpu or cuda.
        device_memory: Most bytes to use on a GPU; None for 4 GiB or a quarter of what is free there.
        named: Weights digest of the base that the patch is for, where `base` is a composition of it.
        console: Where notes and progress go.

    Raises:
        NotFound: There is no such model.
        InvalidCheckpoint: A model is not sound safetensors, or holds NaN or Inf.
        CheckpointMismatch: The two models do not fit together.
        InvalidPatch: Nothing changed.
        InvalidRequest: An option is out of bounds, or `out` is inside one of the models.
        WrongState: `out` or its companion is a file of weights that are compared, or another file is where the
            companion goes.
    """
    out = Path(out)
    replaced, places = out.exists(), [out, *([companion_of(out)] if companion else [])]
    model = base if isinstance(base, Mapping) else resolve(base, quiet=console.quiet)
    after_it = tuned if callable(tuned) else resolve(tuned, quiet=console.quiet)
    check_out(out, model, *([] if callable(after_it) else [after_it]))

    # Importing torch takes seconds: what is wrong without looking at weights has been raised before.
    from registry.breadcrumbs.checking.companions import write_companion
    from registry.breadcrumbs.diffing.adapters.adapted import Adapted, open_tuned
    from registry.breadcrumbs.diffing.diff import diff as write_patch
    from registry.breadcrumbs.diffing.faults import ADDED
    from registry.breadcrumbs.formats.checkpoint import open_checkpoint
    from registry.breadcrumbs.formats.layout import MaskParams

    dtype = "auto" if value_dtype.lower() == "auto" else value_dtype.upper()
    params = MaskParams(decimal(drop_bottom), decimal(drop_top), granularity.lower(), dtype)
    with (
        open_checkpoint(model) as before,
        after_it(before) if callable(after_it) else open_tuned(after_it, before) as after,
    ):
        compared = [*before.files.values(), *getattr(after, "files", {}).values()]
        for place in filter(Path.exists, places):
            if any(file.samefile(place) for file in compared):
                raise WrongState(f"{place} holds weights that are compared here; choose another file for the patch.")
        if companion and companion_of(out).exists() and not replaced:
            raise WrongState(f"{companion_of(out)} is there, and not {out}; choose another file for the patch.")
        left_out = {"base": list(before.left_out), "tuned": list(getattr(after, "left_out", ()))}
        with console.progress("comparing") as progress:
            info = write_patch(
                before,
                after,
                out,
                params,
                include,
                exclude,
                progress,
                device=device,
                device_memory=device_memory,
                strip_prefix=strip_prefix,
                shared_only=shared_only,
                shared_rows=shared_rows,
                named=named,
            )
        only_tuned = write_companion(before, after, info.pairing, companion_of(out)) if companion else {}
        if companion and replaced and not only_tuned:
            companion_of(out).unlink(missing_ok=True)  # that of the patch which was there
        notes = list(info.notes)
        if companion and not only_tuned:
            notes.append("Only the tuned model has nothing that was left out, so there is no companion.")
        grown = any(
            after.tensors[info.pairing.partner[name]].shape[0] > rows for name, rows in info.pairing.rows.items()
        )
        if not companion and (grown or any(fault.kind == ADDED for fault in info.pairing.left_out)):
            notes.append("With `--companion`, what only the tuned model has is written to a file that comes with it.")
        for sentence in notes:
            console.note(sentence)
        adapter = after.config if isinstance(after, Adapted) else None
        dtypes = frozenset() if adapter else {spec.dtype for spec in after.tensors.values()}
        _doubt_adapter("" if isinstance(base, Mapping) else str(base), adapter.base_model if adapter else None, console)
        return MadePatch(
            file=out,
            sha256=str(info.sha256),
            size=info.size,
            base=info.base,
            tensors=len(info.tensors),
            nnz=sum(info.nnz.values()),
            parameters=sum(spec.numel for spec in before.tensors.values()),
            model_size=before.size,
            adapter=adapter.title if adapter else None,
            adapter_base=adapter.base_model if adapter else None,
            prefix=info.pairing.prefix.text,
            left_out_tensors=tuple(map(str, info.pairing.left_out)),
            shared_rows=info.pairing.rows,
            relative_change=info.relative_change,
            matrix_change=info.matrix_change,
            left_out=left_out,
            notes=notes,
            beside=[] if callable(after_it) else compare_beside(model, after_it, dtypes),
            companion=companion_of(out) if only_tuned else None,
            only_tuned={name: f"{spec.dtype} {list(spec.shape)}" for name, spec in only_tuned.items()},
        )


def companion_of(patch: Path) -> Path:
    """Return where the companion of a patch file is."""
    return patch.with_name(f"{patch.stem}.companion.safetensors")


def check_out(out: Path, *models: Path | Mapping[str, Path]) -> None:
    """Check that a patch file may be written, as far as that can be seen without opening the models.

    Raises:
        InvalidCheckpoint: A model is of a kind that is not read.
        InvalidRequest: It is a folder, or inside one of the models.
        WrongState: It is one of the models.
    """
    if out.is_dir():
        raise InvalidRequest(f"{out} is a folder; name the patch file to write, like {out / 'patch.safetensors'}.")
    for model in models:
        if not isinstance(model, Path):
            continue
        if kind := name_kind(model):
            raise InvalidCheckpoint(kind)
        if model.is_dir() and out.resolve().is_relative_to(model.resolve()):
            raise InvalidRequest(f"{out} is inside the model {model}, which it would change; write it elsewhere.")
        if model.is_file() and out.exists() and out.samefile(model):
            raise WrongState(f"{out} holds weights that are compared here; choose another file for the patch.")


def dtypes_of(model: Path) -> frozenset[str]:
    """Return the dtypes of a model's weights; none if it is not a whole model."""
    from registry.breadcrumbs.formats.checkpoint import open_checkpoint

    try:
        with open_checkpoint(model) as checkpoint:
            return frozenset(spec.dtype for spec in checkpoint.tensors.values())
    except InvalidCheckpoint:
        return frozenset()


def _doubt_adapter(base: str, named: str | None, console: Console) -> None:
    """Tell of an adapter for another model of the Hub: on a wrong base of the same shape its changes look sound."""
    is_hub = not Path(base).expanduser().exists() and named is not None and HUB_ID.fullmatch(named)
    if is_hub and named is not None and named.casefold() != base.removeprefix("hf://").partition("@")[0].casefold():
        console.note(f"The adapter says that it was trained on {named}, and the base is {base}; see that both are one.")


def apply(
    base: str | Path,
    patches: Sequence[PatchChoice],
    out: str | Path,
    *,
    alpha: str | float = AUTO,
    method: str = "sum",
    where: Iterable[tuple[int, str, str]] = (),
    device: str = "auto",
    device_memory: int | None = None,
    console: Console = QUIET,
) -> Applied:
    """Write base + alpha * (patches combined by a method) as a model folder, which appears at once or not at all.

    Args:
        base: A .safetensors file, a model folder, or a Hub id `org/name[@revision]`.
        patches: Patch files, each with a weight or without.
        out: The folder to make; it must be new or empty.
        alpha: The scale of the whole, a decimal, or `auto` for the one that the patches give.
        method: sum, ties or mean.
        where: Weights by tensor: position of the patch, from 1; glob of tensor names; factor, a decimal.
        device: auto, cpu or cuda.
        device_memory: Most bytes to use on a GPU; None for 4 GiB or a quarter of what is free there.
        console: Where notes and progress go.

    Raises:
        NotFound: There is no such base or patch.
        WrongState: The folder is there and not empty.
        InvalidPatch: A patch is not sound.
        InvalidRecipe: There are no patches, one is named twice, a weight is not one that the method takes, or a glob
            matches no tensor of its patch.
        BaseMismatch: A patch is for another base.
        NotFinite: The composition overflows.
        TooManyFiles: There are more patches, or files of the base, than the process may open.
    """
    from registry.breadcrumbs.formats.recipe import ALONE, Item, make_recipe

    folder = Path(out)
    check_vacant(folder)
    chosen = [_choose(patch) for patch in patches]
    if not chosen:
        raise InvalidRecipe("There are no patches to apply; name at least one.", field="patches")
    name = None if Path(base).expanduser().exists() else str(base)  # a Hub id
    base = resolve(base, quiet=console.quiet)
    digest = patch_base(chosen[0][0])  # compose() holds the base to it, and open_checked() the other patches

    from registry.breadcrumbs.composing.compose import compose
    from registry.breadcrumbs.composing.variances import tell_negative
    from registry.breadcrumbs.formats.checkpoint import open_checkpoint
    from registry.documents.composed_card import CardItem, render_card

    with new_folder(folder) as temporary, contextlib.ExitStack() as stack:
        checkpoint = stack.enter_context(open_checkpoint(base))
        files = [path for path, _ in chosen]
        checked = stack.enter_context(open_checked(files, digest, checkpoint, console=console))
        digests = [sha256 for sha256, _ in checked]
        if len(set(digests)) < len(digests):
            raise InvalidRecipe("The same patch is named twice; add its weights up instead.", field="patches")
        factors = factors_of(where, [patch for _, patch in checked])
        parts = zip(digests, chosen, factors, strict=True)
        items = [Item(sha256, weight, pairs) for sha256, (_, weight), pairs in parts]
        opened = dict(checked)
        if alpha == AUTO:
            make_recipe(digest, ALONE, items, method)  # whatever is wrong is told before patches are compared
            weighted = [(item.sha256, item.weight) for item in items]
            alpha = alpha_of_files(checkpoint, opened, weighted, method, console=console)
            if len(items) > 1:
                console.note(f"alpha {alpha}, by the sizes of the patches")
        recipe = make_recipe(digest, decimal(alpha), items, method)
        with checked_base(checkpoint, digest) as known, console.progress("composing") as progress:
            composed = compose(
                checkpoint,
                opened,
                recipe,
                temporary,
                device,
                progress,
                check_base=not known,
                device_memory=device_memory,
            )
        assert composed.weights_digest is not None
        warnings = tell_negative(composed.negative)
        for sentence in warnings:
            console.note(sentence)
        copy_others(base, temporary, checkpoint.indexes)
        named = [CardItem(sha256, None, path.name) for sha256, path in zip(digests, files, strict=True)]
        title, old = folder.absolute().name, _read_card(base)
        left_out = list(checkpoint.left_out)
        if left_out:
            console.note(tell_left_out(left_out, "the base"))
        card = render_card(title, name or digest, recipe, composed.weights_digest, named, old, left_out)
        (temporary / "README.md").write_text(card, "utf-8")
    return Applied(
        folder,
        composed.weights_digest,
        recipe.digest,
        digest,
        composed.device,
        composed.seconds,
        left_out,
        warnings,
    )


def _choose(patch: PatchChoice) -> tuple[Path, str]:
    if isinstance(patch, tuple):
        return Path(patch[0]), decimal(patch[1])
    return (patch, "1") if isinstance(patch, Path) else parse_file(patch)


def _read_card(base: Path) -> str | None:
    card = base / "README.md"
    if base.is_file() or not card.is_file() or card.stat().st_size > CARD_BYTES:
        return None
    try:
        return card.read_text("utf-8")
    except UnicodeDecodeError as why:
        raise InvalidCheckpoint(f"{card} is not UTF-8 text; remove it or save it again.") from why
    except FileNotFoundError as why:
        raise NotFound(f"There is no {card}.") from why
