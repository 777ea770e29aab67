"""Shapes of where patches meet, and of what a recipe would be."""

from pydantic import Field

from registry.schemas.compositions import RecipeItem
from registry.schemas.operations import Job
from registry.schemas.wire import Answer, Hex256, WeightsDigest, Wire


class PatchChoice(Wire):
    """A patch that is to be compared."""

    number: int = Field(ge=1, le=2**31 - 1)
    revision: int | None = Field(None, ge=1, le=2**31 - 1, description="the newest when null")


class ConflictRequest(Wire):
    """Have patches compared, each with each."""

    patches: list[PatchChoice] = Field(
        [], max_length=64, description="two or more; those of the newest release, or the newest accepted, when empty"
    )


class Overlap(Answer):
    """Where two patches meet, in one tensor or in all: counts and sums, which add up, and what follows from them.

    A measure is null where nothing can be said: of an empty overlap, say.
    """

    numel: int = Field(description="weights of the tensors that one of the two touches")
    first: int = Field(description="weights that the first touches")
    second: int = Field(description="weights that the second touches")
    overlap: int = Field(description="weights that both touch")
    opposed: int = Field(description="of these, how many they move in opposite directions")
    expected: float = Field(description="the overlap that is due by chance")
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
    union: int = Field(description="weights that either touches")
    iou: float | None = Field(description="overlap over union")
    lift: float | None = Field(description="overlap over expected: 1 is chance")
    sign_conflict: float | None = Field(description="opposed over overlap")
    sign_conflict_mass: float | None = Field(description="opposed mass over overlap mass")
    cosine: float | None = Field(description="of the angle between the patches")
    overlap_cosine: float | None = Field(description="the same on the overlap alone")
    cancellation: float | None = Field(description="the part of both that is lost when they are added")
    norm_ratio: float | None = Field(description="norm of the first over that of the second")


class PatchName(Answer):
    """A patch at a revision, in a few words."""

    number: int
    revision: int
    title: str
    author: str
    state: str


class ConflictPair(Answer):
    """Where two patches meet."""

    first: PatchName
    second: PatchName
    whole: Overlap
    tensors: dict[str, Overlap] | None = Field(
        None, description="the same by tensor, of those that one of the two touches, where one pair was asked for"
    )


class Conflicts(Answer):
    """Where patches meet, each with each, as far as it is known."""

    patches: list[PatchName]
    source: str | None = Field(
        None, description="where they are from when none were named: the version of a release, or 'accepted'"
    )
    pairs: list[ConflictPair] = Field(description="those that are known, in the order of the patches")
    missing: int = Field(description="how many pairs are not")
    census: list[int] | None = Field(
        description="how many weights of the base are touched by 0, 1, 2, … of the patches; null while not known"
    )
    tensors: dict[str, list[int]] | None = Field(description="the same by tensor, of those that a patch touches")
    energy: dict[str, list[float]] = Field(
        description="by tensor, the share of each patch in the sum of their squared norms"
    )
    job: Job | None = Field(None, description="what finds out the rest, while it is at work")


class PreviewItem(RecipeItem):
    """One patch of a recipe that may be composed, and what to know of it."""

    size: int = Field(description="bytes of its file")
    warnings: list[str]


class Preview(Answer):
    """What a recipe would be; nothing is composed."""

    recipe: Hex256 = Field(description="its digest")
    alpha: str
    composed: bool
    weights_digest: WeightsDigest | None = Field(description="what came out, when it has been composed")
    patches: list[PreviewItem]
    warnings: list[str] = Field(description="a sentence each; those of the patches, and of the whole")
    patch_bytes: int = Field(description="of all patch files")
    model_bytes: int = Field(description="of all files of the model")
    touched: int | None = Field(description="weights that a patch changes; null while not known")
    conflicts: Conflicts
