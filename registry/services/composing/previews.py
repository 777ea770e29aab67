"""Previews: what a recipe would be, before anybody composes it. Nothing is written, and little is refused."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.breadcrumbs.comparing.hints import Hint, HintPart, hints_of_recipe
from registry.breadcrumbs.formats import recipe as recipes
from registry.db.tables import Composition, Model, PatchRevision
from registry.documents import licences
from registry.errors import BreadcrumbError, InvalidRecipe, NotCompared
from registry.services.catalog import models, patches
from registry.services.composing import alphas, conflict_sums, conflicts, mixes
from registry.services.composing.conflicts import KnownConflicts
from registry.services.composing.mixes import Mix
from registry.services.people.actors import Actor


@dataclass(frozen=True)
class Preview:
    """What a recipe would be.

    Args:
        mix: What was asked for.
        recipe: The recipe that would be composed; None while its alpha is not known.
        weights_digest: The result, if the recipe was composed.
        patches: Each patch with its weight and its warnings, in the order in which they were named.
        warnings: All warnings, of the patches and of the whole.
        model_bytes: The bytes of all files of the model.
        touched: How many weights a patch changes, if that is known.
        conflicts: The conflicts between those patches that may be compared.
        alpha_rule: The rule of alpha `auto`, if it gives this alpha.
        hints: What the numbers of the patches say against the recipe.
    """

    mix: Mix
    recipe: recipes.Recipe | None
    weights_digest: str | None
    patches: list[tuple[PatchRevision, str, list[str]]]
    warnings: list[str]
    model_bytes: int
    touched: int | None
    conflicts: KnownConflicts
    alpha_rule: str | None
    hints: list[Hint]


def preview(
    session: Session,
    actor: Actor | None,
    full_name: str,
    mix: Mix,
) -> Preview:
    """Return what the composition of some patches would be.

    What prevents a patch from being composed is a warning here, like everything else to know about it.

    Raises:
        NotFound, WrongState: The model does not exist, or is not ready.
        InvalidRecipe: A patch does not exist or is named twice, or a scale is beyond the range of float32.
    """
    model = models.ready(session, full_name)
    revisions = mixes.named(session, model, mix.items)
    recipe: recipes.Recipe | None = None
    unknown: list[str] = []
    try:
        recipe = mixes.recipe_of(session, model, mix, revisions)
    except NotCompared as why:
        unknown.append(why.message)
    digest = None
    if recipe is not None:
        digest = session.scalar(
            select(Composition.weights_digest).where(
                Composition.model_id == model.id, Composition.recipe_digest == recipe.digest
            )
        )
    described = [
        (
            revision,
            recipes.normalise_decimal(item.weight, "weight"),
            warnings_of(model, revision, allow_yanked=mix.allow_yanked),
        )
        for item, revision in zip(mix.items, revisions, strict=True)
    ]
    warnings = (
        unknown
        + [sentence for _, _, sentences in described for sentence in sentences]
        + licence_warnings(model, revisions)
    )
    comparable = [
        one for one in revisions if one.state == "checked" and (one.patch.quarantined_at is None or is_admin(actor))
    ]
    if len(comparable) > conflicts.MOST_PATCHES:
        warnings.append(
            f"Conflicts are shown of at most {conflicts.MOST_PATCHES} patches; these are {len(comparable)}."
        )
        known = KnownConflicts(comparable, missing=len(comparable) * (len(comparable) - 1) // 2)
    else:
        known = conflicts.known_conflicts(session, model, comparable)
    touched = None
    if len(revisions) < 2:
        touched = sum(one.nnz for one in revisions if one.nnz is not None)
    elif len(comparable) == len(revisions) and known.touched is not None:
        touched = sum(known.touched[1:])
    alpha, auto = recipe.alpha if recipe else None, alpha_auto(model, mix, revisions, known)
    weights = [item.weight for item in mix.items]
    rule = alphas.rule_for(mix.method, revisions, weights) if auto and auto == alpha else None
    hints = hints_of(model, mix, revisions, known, alpha, auto)
    return Preview(mix, recipe, digest, described, warnings, model.size, touched, known, rule, hints)


def alpha_auto(model: Model, mix: Mix, revisions: Sequence[PatchRevision], known: KnownConflicts) -> str | None:
    """Return the alpha that `auto` gives for the patches of a mix, if what is known of them tells."""
    dots = {conflict_sums.key_of(one.sha256, two.sha256): sums.dot for one, two, sums in known.pairs}
    with suppress(BreadcrumbError):
        return alphas.resolve(model, mix.method, revisions, [item.weight for item in mix.items], dots)
    return None


def hints_of(
    model: Model,
    mix: Mix,
    revisions: Sequence[PatchRevision],
    known: KnownConflicts,
    alpha: str | None,
    auto: str | None,
) -> list[Hint]:
    """Return what the numbers of the patches of a mix say against it."""
    parts = [
        HintPart(f"{item.number}{mixes.dot(item)}", item.weight, one.norm or 0.0, one.rounding)
        for item, one in zip(mix.items, revisions, strict=True)
    ]
    places = {one.sha256: place for place, one in enumerate(revisions)}
    dots = {(places[one.sha256], places[two.sha256]): sums.dot for one, two, sums in known.pairs}
    return hints_of_recipe(model.full_name, parts, dots, alpha, auto)


def is_admin(actor: Actor | None) -> bool:
    """Say whether the caller is an admin of the registry."""
    return actor is not None and actor.admin


def warnings_of(model: Model, revision: PatchRevision, *, allow_yanked: bool) -> list[str]:
    """Return the warnings about a patch, a sentence each; the first says why it would be refused, if it would."""
    patch, subject = revision.patch, f"{model.full_name}{conflicts.name_of(revision)}"
    warnings = []
    try:
        mixes.require_composable(revision, subject, allow_yanked)
    except InvalidRecipe as refusal:
        warnings.append(refusal.message)
    else:
        if patch.state == "yanked":
            warnings.append(f"{subject} was yanked: {patch.reason}")
    if patch.state == "superseded":
        warnings.append(f"{subject} was superseded by #{patch.superseded_by}.")
    elif patch.state not in ("accepted", "yanked"):
        warnings.append(f"{subject} is {patch.state.replace('_', ' ')}, not accepted.")
    if revision.number != patch.revision:
        warnings.append(f"{subject} is revision {revision.number}; the newest is {patch.revision}.")
    return warnings


def licence_warnings(model: Model, revisions: Sequence[PatchRevision]) -> list[str]:
    """Return a sentence for each pair of incompatible licences, and for each licence that somebody should read."""
    judged = licences.judge(patches.licensed_parts(model, revisions))
    return [pair.sentence for pair in judged.incompatible] + judged.warnings
