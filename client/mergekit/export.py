"""Export: a recipe for mergekit, as the YAML that `mergekit-yaml` runs.

    base + alpha * sum(weight * patch)
     = base + lambda * sum(weight * (model - base))    with model = base + patch: task_arithmetic
    base + alpha * ties(weight, patch)                 likewise, ties with normalize: true

mergekit has no patches: it subtracts whole models. A model that is the base and one patch, at alpha 1 and weight 1, has
the patch's mask in it already, so that nothing is left to mask and plain task arithmetic gives our sum. Its
`breadcrumbs` would need the fine-tuned models themselves, which a registry does not have, and chooses another mask.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from client.api.client import Client
from client.terminal.console import Console, plain
from registry.errors import InvalidRequest
from registry.schemas import Patch, RecipeItem, Snapshot

QUIET = Console(quiet=True)
MODELS = "models"
"""The folder beside the YAML that holds its models."""

MERGE_METHODS = {"sum": "task_arithmetic", "ties": "ties"}
"""mergekit's names of the methods that it has, too."""

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
NORMALISED = {
    "sum": "No weights are normalised by us; hence `normalize: false`.",
    "ties": "We divide by the weights of the patches that have the elected sign; hence `normalize: true`. The models\n"
    "#    below hold patches, which are trimmed already; hence no `density`.",
}
HEAD = """\
# {name} for mergekit 0.1.5: base + {alpha} * {combined} the patches, by {method}.
# recipe {recipe}
# base   {base}
# weights of our own composition: {weights}
#
# mergekit takes whole models where the registry holds patches: {folder}/ has the base, and for each patch the base with
# that patch alone, at alpha 1. These are made, and then merged, in the folder of this file, by
#
#   crumb recipe export {name} -o FILE --models
#   mergekit-yaml FILE merged
#
# Where mergekit's result differs from ours, and so has another weights digest:
#  * Each model was rounded to the base's dtype when it was made, and mergekit subtracts the base again. That is the
#    patch up to half a unit in the last place of the weight: next to nothing in float32, more in bfloat16.
#  * We round alpha * weight once, and sum in float64, in the order of the patches' digests. mergekit multiplies by
#    weight, sums, and multiplies by lambda, in `dtype`, in the order below.
#  * We keep each tensor's dtype. mergekit writes all of them, also those that no patch touches, in {written}.
#  * {normalised}
#  * mergekit copies config and tokenizer, and goes by what it knows of the architecture. We carry over every file but
#    the card, and every tensor.
#
# With the fine-tuned models at hand, `merge_method: breadcrumbs` is near to it, with the `density` and `gamma` that are
# noted at each model. It is not the same:
#  * mergekit's gamma is our drop_top, and its density 1 - drop_bottom - drop_top. With its default, density 1, it masks
#    nothing and gamma has no effect.
#  * Among changes of one size, of which bfloat16 has many, it keeps whichever its sort puts last; we keep those that
#    come first in the tensor. Its counts come from binary fractions, and round down what is kept; ours come from
#    decimals, and round down what is dropped.
#  * Up to 0.1.4 it loses every tensor of so few weights that gamma drops none of them (100 for 0.01), and with gamma 0
#    all of them.
#  * It always masks whole tensors, never by row.
#  * It masks changes that it has rounded to `dtype`; we mask those in float32.
"""


def export_recipe(client: Client, snapshot: Snapshot) -> str:
    """Return a snapshot's recipe as YAML for mergekit.

    Args:
        client: The registry, which knows the patches' masks and dtypes.
        snapshot: A release or another composition.

    Raises:
        InvalidRequest: The snapshot has no patches.
    """
    recipe = snapshot.recipe
    listed = [item for item in recipe.patches if item.number] if recipe else []
    patches = {item.sha256: client.patch(snapshot.model, item.number, item.revision) for item in listed}
    dtypes = {
        tensor.dtype
        for item in listed
        for tensor in client.patch_tensors(snapshot.model, item.number, item.revision)
        if tensor.nnz
    }
    return write_yaml(snapshot, patches, dtypes)


def write_yaml(snapshot: Snapshot, patches: Mapping[str, Patch], dtypes: set[str]) -> str:
    """Return a snapshot's recipe as YAML for mergekit.

    Args:
        snapshot: A release or another composition.
        patches: Its patches, by sha256; those no longer listed may be missing.
        dtypes: Of the tensors that they change, as safetensors names them.

    Raises:
        InvalidRequest: The snapshot has no patches.
    """
    recipe = snapshot.recipe
    name = f"{snapshot.model}@{snapshot.release or snapshot.ref[:12]}"
    if recipe is None or not recipe.patches:
        raise InvalidRequest(f"{name} has no patches, so there is nothing to merge.", field="ref")
    if recipe.method not in MERGE_METHODS:
        raise InvalidRequest(
            f"{name} is combined by {recipe.method}, which mergekit does not have; it has sum and ties.", field="ref"
        )
    if recipe.method == "ties" and any(item.where for item in recipe.patches):
        raise InvalidRequest(
            f"{name} has weights by tensor, with which mergekit's ties divides by other sums; export one without.",
            field="ref",
        )
    compute = "float64" if "F64" in dtypes else "float32"
    one = DTYPES.get(next(iter(dtypes))) if len(dtypes) == 1 else None
    head = HEAD.format(
        name=name,
        alpha=recipe.alpha,
        combined="the weighted sum of" if recipe.method == "sum" else "the elected mean of",
        method=MERGE_METHODS[recipe.method],
        normalised=NORMALISED[recipe.method],
        recipe=recipe.digest,
        base=recipe.base,
        weights=snapshot.weights_digest,
        folder=MODELS,
        written=f"`out_dtype`, {one}" if one else f"`dtype`, {compute}",
    )
    lines = [f"merge_method: {MERGE_METHODS[recipe.method]}", f"base_model: ./{MODELS}/base", "models:"]
    for item in recipe.patches:
        lines += [
            f"  - model: ./{MODELS}/{folder_of(item)}  # {_describe(item, patches.get(item.sha256))}",
            "    parameters:",
            f"      weight: {item.weight}",
        ]
    normalize = "false" if recipe.method == "sum" else "true"
    lines += ["parameters:", f"  lambda: {recipe.alpha}", f"  normalize: {normalize}", f"dtype: {compute}"]
    if one:
        lines.append(f"out_dtype: {one}")
    return head + "\n".join(lines) + "\n"


def folder_of(item: RecipeItem) -> str:
    """Return the name of the folder with the base and this patch alone."""
    return f"{item.number}.{item.revision}" if item.number else item.sha256[:16]


def make_models(client: Client, snapshot: Snapshot, folder: Path, *, console: Console = QUIET) -> None:
    """Make the models that the YAML names: the base, and for each patch the base with that patch alone.

    Args:
        client: The registry.
        snapshot: The snapshot that was exported.
        folder: Made with all of the models in it, or not at all.
        console: Where notes and progress go.

    Raises:
        WrongState: The folder exists and is not empty.
    """
    from client.machine.folders import check_vacant, new_folder
    from client.trials.bench import Candidate, ScaledPatch, bench

    check_vacant(folder)
    assert snapshot.recipe is not None
    base, items = snapshot.recipe.base, snapshot.recipe.patches
    candidates = {"base": Candidate(base, ())}
    candidates |= {folder_of(item): Candidate(base, (ScaledPatch(item, "1"),)) for item in items}
    with (
        new_folder(folder) as out,
        bench(client, snapshot.model, candidates.values(), keep=out, console=console) as opened,
    ):
        for name, candidate in candidates.items():
            with opened.model(candidate, name):
                pass  # it is kept


def _describe(item: RecipeItem, patch: Patch | None) -> str:
    words: Sequence[str] = [
        f"#{item.number}.{item.revision}" if item.number else item.sha256,
        f"{plain(item.title)[:200]!r} by {plain(item.author or 'somebody')}",
    ]
    if patch is None or patch.drop_bottom is None or patch.drop_top is None:
        return " ".join(words)
    density = float(1 - Fraction(patch.drop_bottom) - Fraction(patch.drop_top))
    rows = ", by row" if patch.granularity == "row" else ""
    return f"{' '.join(words)}; density {density:.12g}, gamma {patch.drop_top}{rows}"
