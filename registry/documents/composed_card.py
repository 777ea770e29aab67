"""The model card of a composition: front matter, what it is made of, how to verify it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from registry.breadcrumbs.formats.recipe import Item, Recipe

KEPT = ("license", "license_name", "license_link", "language", "library_name", "pipeline_tag", "datasets")
"""Fields of the base's front matter that hold for the composed model too."""

FILES_NAMED = 10
"""Most files that a card names as left out."""

COMBINED = {
    "sum": "the weighted sum of",
    "ties": "the mean, for the sign with more weight ([TIES](https://arxiv.org/abs/2306.01708)), of",
    "mean": "the weighted mean, where they meet, of",
}
"""What a method does, in words that are followed by how many patches there are."""


@dataclass(frozen=True)
class CardItem:
    """A patch as the card shows it: the digest of its file, its number in a model (if any) and its title."""

    sha256: str
    number: int | None
    title: str


def render_card(
    name: str,
    base: str,
    recipe: Recipe,
    weights_digest: str,
    items: Sequence[CardItem],
    base_card: str | None,
    left_out: Sequence[str] = (),
) -> str:
    """Write the model card of a composition.

    Args:
        name: The model, `namespace/name`.
        base: The repository id of the base, for `base_model`.
        recipe: What was composed.
        weights_digest: The weights digest of the result.
        items: The recipe's patches that the model lists; others appear by their digest alone.
        base_card: The base's own README.md, for its licence and languages.
        left_out: Files of the base with other copies of its weights, which the model does not have.

    Returns:
        Markdown with YAML front matter; the same inputs give the same text.
    """
    known = {item.sha256: item for item in items}
    front = ["---", *kept_fields(base_card or "")]
    front += ["base_model:", f"- {_quoted(base)}", "base_model_relation: merge", "tags:", "- merge", "- breadcrumbs"]
    front += [f"recipe_digest: {recipe.digest}", f"weights_digest: {_quoted(weights_digest)}", "---"]
    rows = []
    for item in recipe.items:
        listed = known.get(item.sha256)
        number = f"#{listed.number}" if listed and listed.number else ""
        title = _cell(listed.title) if listed else ""
        rows.append(f"| {number} | {title} | {weight_of(item)} | `{item.sha256}` |")
    table = ["| patch | title | weight | sha256 |", "|---|---|---|---|", *rows] if rows else ["No patches: the base."]
    count = "1 breadcrumb patch" if len(rows) == 1 else f"{len(rows)} breadcrumb patches"
    body = [
        f"# {_cell(name)}",
        "",
        f"`{_cell(base)}` + {recipe.alpha} × {COMBINED[recipe.method]} {count}"
        " ([Model Breadcrumbs](https://arxiv.org/abs/2312.06795)).",
        "",
        *table,
        "",
        f"* recipe: `{recipe.digest}`",
        f"* base weights: `{recipe.base}`",
        f"* composed weights: `{weights_digest}`",
        *([f"* of the base, but not here, since no patch is in them: {_named(left_out)}"] if left_out else []),
        "",
        "The recipe digest is the sha256 of this text; anyone with the base and the patches can compose it again and",
        "must arrive at the same weights digest:",
        "",
        "```json",
        recipe.canonical().decode("utf-8"),
        "```",
    ]
    return "\n".join([*front, "", *body, ""])


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - FILES_NAMED} more" if len(paths) > FILES_NAMED else ""
    return ", ".join(_cell(path) for path in paths[:FILES_NAMED]) + more


def weight_of(item: Item) -> str:
    """Return the weight of a patch, with its factors by tensor."""
    factors = ", ".join(f"{_cell(glob)} × {factor}" for glob, factor in item.where)
    return f"{item.weight} ({factors})" if factors else item.weight


def kept_fields(card: str) -> list[str]:
    """Return the lines of a card's front matter that the composed model keeps, unchanged."""
    match = re.match(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", card, re.DOTALL)
    kept: list[str] = []
    keeping = False
    for line in match[1].splitlines() if match else []:
        field = re.match(r"([A-Za-z_]+):", line)
        if field or not line.startswith((" ", "-")):
            keeping = field is not None and field[1] in KEPT
        if keeping and line.strip():
            kept.append(line)
    return kept


def _quoted(text: str) -> str:
    return json.dumps(text)  # a JSON string is a YAML string


def _cell(text: str) -> str:
    """Make a stranger's words safe inside a table: one line, no markup of their own."""
    text = re.sub(r"[\x00-\x1f\x7f]+", " ", text)
    return re.sub(r"([\\`*_{}\[\]<>|#!])", r"\\\1", text).strip()
