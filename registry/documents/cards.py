"""The model card of a release: front matter with its evaluations, what it is made of, how to verify it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from registry.breadcrumbs.formats.recipe import Recipe
from registry.documents.composed_card import COMBINED, kept_fields, weight_of
from registry.documents.manifest import Evaluation
from registry.documents.markdown import code, inline, line
from registry.errors import InvalidRequest

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/:-]{0,199}")  # an id of a licence, a language or a library
_SINGLE_FIELDS = ("license", "license_name", "license_link", "library_name", "pipeline_tag")
_LIST_FIELDS = ("language", "datasets")


@dataclass(frozen=True)
class CardPatch:
    """A patch as the card shows it."""

    sha256: str
    number: int
    title: str
    author: str
    licence: str | None


def render_release_card(
    model: str,
    version: str,
    base: str,
    recipe: Recipe,
    weights_digest: str,
    patches: Sequence[CardPatch],
    *,
    licence: str | None = None,
    evaluations: Sequence[Evaluation] = (),
    changelog: str = "",
    base_card: str | None = None,
) -> str:
    """Write the model card of a release.

    Args:
        model: `namespace/name`.
        version: The release's version.
        base: The repository id of the base, for `base_model`.
        recipe: What was composed.
        weights_digest: The weights digest of the result.
        patches: The patches of the recipe that the model still lists.
        licence: The model's licence, as the Hub names it; if None, that of the base's card.
        evaluations: The evaluations of this release.
        changelog: Markdown, as `render_changelog` writes it.
        base_card: The base's own README.md, for its languages and other fields that hold for the composed model too.

    Returns:
        Markdown with YAML front matter; the same inputs give the same text, and `ModelCard` reads it back.

    Raises:
        InvalidRequest: An evaluation's value is not finite.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData  # imports an HTTP client, so only when needed

    for one in evaluations:
        if not math.isfinite(one.value):
            raise InvalidRequest(f"The {one.metric} on {one.dataset} is not a finite number.", field="evaluations")
    kept: dict[str, Any] = _kept(base_card or "")
    if licence and licence != kept.get("license"):
        kept = {name: value for name, value in kept.items() if not name.startswith("license_")} | {"license": licence}
    results = [
        EvalResult(
            task_type=line(one.task),
            dataset_type=line(one.dataset),
            dataset_name=line(one.dataset),
            metric_type=line(one.metric),
            metric_value=float(one.value),
        )
        for one in evaluations
    ]
    data = ModelCardData(
        **kept,
        base_model=[base],
        base_model_relation="merge",
        tags=["merge", "breadcrumbs"],
        model_name=line(model) if results else None,
        eval_results=results or None,
        version=version,
        recipe_digest=recipe.digest,
        weights_digest=weights_digest,
    )
    body = _body(model, version, base, recipe, weights_digest, patches, evaluations, changelog)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def _body(
    model: str,
    version: str,
    base: str,
    recipe: Recipe,
    weights_digest: str,
    patches: Sequence[CardPatch],
    evaluations: Sequence[Evaluation],
    changelog: str,
) -> str:
    known = {patch.sha256: patch for patch in patches}
    rows = []
    for item in recipe.items:
        patch = known.get(item.sha256)
        words = (f"\\#{patch.number}", patch.title, patch.author) if patch else ("", "", "")
        cells = [
            words[0],
            inline(words[1]),
            inline(words[2]),
            weight_of(item),
            inline((patch and patch.licence) or "none"),
        ]
        rows.append(f"| {' | '.join(cells)} | `{item.sha256}` |")
    made_of = ["| patch | title | author | weight | licence | sha256 |", "|---|---|---|---|---|---|", *rows]
    measured = [
        f"| {inline(one.task)} | {inline(one.dataset)} | {inline(one.metric)} | {one.value!r} | {inline(one.who)} |"
        for one in evaluations
    ]
    count = "1 breadcrumb patch" if len(rows) == 1 else f"{len(rows)} breadcrumb patches"
    lines = [
        f"# {inline(model)} {inline(version)}",
        "",
        f"{inline(base)} + {recipe.alpha} × {COMBINED[recipe.method]} {count}"
        " ([Model Breadcrumbs](https://arxiv.org/abs/2312.06795)).",
        "",
        *(made_of if rows else ["No patches: the base."]),
        "",
    ]
    if measured:
        lines += ["## Evaluations", "", "| task | dataset | metric | value | reported by |", "|---|---|---|---|---|"]
        lines += [*measured, ""]
    lines += [
        "## Verify it",
        "",
        f"* recipe: `{recipe.digest}`",
        f"* base weights: `{recipe.base}`",
        f"* composed weights: `{weights_digest}`",
        "",
        "Whoever has the base and the patches can compose this again, on any machine, and must arrive at the same",
        f"weights digest: {code(f'crumb verify FOLDER {model}@{recipe.digest[:16]} --recompose')}. A signature of the",
        "release says where it came from, not whether to trust it. The recipe digest is the sha256 of this text:",
        "",
        "```json",
        recipe.canonical().decode("utf-8"),
        "```",
    ]
    if changelog.strip():
        lines += ["", "# Changelog", "", changelog.strip()]
    return "\n".join([*lines, ""])


def _kept(card: str) -> dict[str, str | list[str]]:
    """Return the fields of a base's front matter that the composed model keeps: only plain words and lists of them."""
    values: dict[str, list[str]] = {}
    name = ""
    for text in kept_fields(card):
        field = re.fullmatch(r"([A-Za-z_]+):(.*)", text)
        name, rest = (field[1], field[2]) if field else (name, re.sub(r"^\s*-\s", "", text))
        words = [word.strip().strip("\"'") for word in rest.split(" #")[0].strip().strip("[]").split(",")]
        values.setdefault(name, []).extend(word for word in words if _WORD.fullmatch(word))
    kept: dict[str, str | list[str]] = {name: values[name][0] for name in _SINGLE_FIELDS if values.get(name)}
    return kept | {name: list(dict.fromkeys(values[name])) for name in _LIST_FIELDS if values.get(name)}
