"""Schemas of conflicts between patches, and of previews of recipes."""

from pydantic import Field

from registry.schemas.compositions import RecipeItem
from registry.schemas.operations import Job
from registry.schemas.patches import Hint
from registry.schemas.wire import Answer, Hex256, WeightsDigest, Wire


class PatchChoice(Wire):
    """A patch to compare."""

    number: int = Field(ge=1, le=2**31 - 1)
    revision: int | None = Field(None, ge=1, le=2**31 - 1, description="the newest if null")


class ConflictRequest(Wire):
    """Have patches compared, each with each other."""

    patches: list[PatchChoice] = Field(
        [], max_length=64, description="two or more; if empty, those of the newest release, or the newest accepted ones"
    )


class Overlap(Answer):
    """How two patches overlap, in one tensor or in all: counts and sums over weights, and ratios of them.

    A ratio is null where it is not defined: of an empty overlap, say.
    """

    numel: int = Field(description="weights of the tensors that at least one of the two touches")
    first: int = Field(description="weights that the first touches")
    second: int = Field(description="weights that the second touches")
    overlap: int = Field(description="weights that both touch")
    opposed: int = Field(description="weights of the overlap that they move in opposite directions")
    expected: float = Field(description="the overlap expected by chance")
    opposed_mass: float = Field(description="sum of min(|a|, |b|) over the opposed")
    overlap_mass: float = Field(description="sum of min(|a|, |b|) over the overlap")
    dot: float = Field(description="sum of ab")
    first_squares: float = Field(description="sum of a^2")
    second_squares: float = Field(description="sum of b^2")
    first_overlap_squares: float = Field(description="sum of a^2 over the overlap")
    second_overlap_squares: float = Field(description="sum of b^2 over the overlap")
    first_l1: float = Field(description="sum of |a|")
    second_l1: float = Field(description="sum of |b|")
    abs_sum: float = Field(description="sum of |a + b|")
    union: int = Field(description="weights that at least one touches")
    iou: float | None = Field(description="overlap over union")
    lift: float | None = Field(description="overlap over expected: 1 is chance")
    sign_conflict: float | None = Field(description="opposed over overlap")
    sign_conflict_mass: float | None = Field(description="opposed mass over overlap mass")
    cosine: float | None = Field(description="cosine of the angle between the patches")
    overlap_cosine: float | None = Field(description="the same over the overlap alone")
    cancellation: float | None = Field(description="the share of both that cancels out when they are added")
    norm_ratio: float | None = Field(description="norm of the first over that of the second")


class PatchName(Answer):
    """A revision of a patch, in short."""

    number: int
    revision: int
    title: str
    author: str
    state: str


class ConflictPair(Answer):
    """How two patches overlap."""

    first: PatchName
    second: PatchName
    whole: Overlap
    tensors: dict[str, Overlap] | None = Field(
        None, description="the same by tensor, of those that one of the two touches, if one pair was asked for"
    )


class Conflicts(Answer):
    """The known conflicts between patches, each with each other."""

    patches: list[PatchName]
    source: str | None = Field(
        None, description="where they come from if none were named: the version of a release, or 'accepted'"
    )
    pairs: list[ConflictPair] = Field(description="the known pairs, in the order of the patches")
    missing: int = Field(description="how many pairs are not known")
    census: list[int] | None = Field(
        description="how many weights of the base are touched by 0, 1, 2, … of the patches; null until known"
    )
    tensors: dict[str, list[int]] | None = Field(description="the same by tensor, of those that a patch touches")
    energy: dict[str, list[float]] = Field(
        description="by tensor, the share of each patch in the sum of their squared norms"
    )
    job: Job | None = Field(None, description="the job that computes the rest, while it is active")


class PreviewItem(RecipeItem):
    """One patch of a recipe, with what to know before it is composed."""

    size: int = Field(description="bytes of its file")
    warnings: list[str]


class Preview(Answer):
    """What a recipe would be, without composing it."""

    recipe: Hex256 | None = Field(description="the recipe's digest; null while its alpha is not known")
    alpha: str = Field(description="a decimal; auto while it is not known")
    alpha_rule: str | None = Field(None, description="the rule of auto, if it gives this alpha")
    method: str = "sum"
    composed: bool
    weights_digest: WeightsDigest | None = Field(description="the result, if it was composed")
    patches: list[PreviewItem]
    warnings: list[str] = Field(description="a sentence each, of the patches and of the whole")
    hints: list[Hint] = Field([], description="what the numbers of its patches say against it")
    patch_bytes: int = Field(description="bytes of all patch files")
    model_bytes: int = Field(description="bytes of all files of the model")
    touched: int | None = Field(description="weights that a patch changes; null until known")
    conflicts: Conflicts
