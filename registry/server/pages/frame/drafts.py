"""Drafts of recipes: the fields of the recipe editor's form, and the same as the query of an address.

    patch=3 & patch=7.2 & w3=0.5 & w7=1 & alpha=0.3 & allow_yanked=on

Weights are decimals, kept as they were typed: they are never converted to floats.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from registry import schemas
from registry.errors import InvalidRequest

ALPHA: str = schemas.RecipeRequest.model_fields["alpha"].default
MOST = 200  # patches of a draft: their weights must fit into an address
PATCH = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?")
Fields = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Draft:
    """Ticked patches by number, each with its revision (None for the newest), and weights by number, ticked or not."""

    alpha: str = ALPHA
    ticked: Mapping[int, int | None] = field(default_factory=dict)
    weights: Mapping[int, str] = field(default_factory=dict)
    allow_yanked: bool = False

    def weight(self, number: int) -> str:
        """Return the weight of a patch, as it was typed."""
        return self.weights.get(number, "1")

    def query(self) -> dict[str, str | list[str]]:
        """Return the draft as fields of an address."""
        weighted = {f"w{number}": self.weights[number] for number in self.ticked if self.weight(number) != "1"}
        return {
            "patch": [reference(number, revision) for number, revision in self.ticked.items()],
            **weighted,
            "alpha": self.alpha,
            "allow_yanked": "on" if self.allow_yanked else "",
        }

    def request(self) -> schemas.RecipeRequest:
        """Return the draft as a body of the API.

        Raises:
            InvalidRequest: A weight or alpha is not a decimal; the message names which.
        """
        items = [
            {"number": number, "revision": revision, "weight": self.weight(number)}
            for number, revision in self.ticked.items()
        ]
        try:
            return schemas.RecipeRequest.model_validate(
                {"alpha": self.alpha, "patches": items, "allow_yanked": self.allow_yanked}
            )
        except ValidationError as why:
            first = why.errors(include_url=False, include_context=False)[0]
            at = first["loc"]
            what = f"The weight of patch #{items[int(at[1])]['number']}" if len(at) > 1 else "Alpha"
            given = str(first["input"])[:80]
            raise InvalidRequest(
                f"{what} must be a decimal like 0.5 or -1.25, not {given!r}.", field="patches"
            ) from None


def reference(number: int, revision: int | None) -> str:
    """Return `3`, or `3.2` for a revision that was named."""
    return str(number) if revision is None else f"{number}.{revision}"


def read(fields: Fields) -> Draft:
    """Return the draft that the fields of a form describe; empty fields are ignored.

    Raises:
        InvalidRequest: A patch is not a number, or there are too many patches.
    """
    given = {name: [value.strip() for value in values if value.strip()] for name, values in fields.items()}
    ticked: dict[int, int | None] = {}
    for value in given.get("patch", []):
        match = PATCH.fullmatch(value)
        if match is None or not 0 < int(match[1]) < 2**31 or not 0 < int(match[2] or 1) < 2**31:
            raise InvalidRequest(f"A patch must be a number like 12 or 12.2, not {value[:40]!r}.", field="patch")
        ticked[int(match[1])] = int(match[2]) if match[2] else None
    require_few(len(ticked))
    weights = {
        int(name[1:]): values[-1] for name, values in given.items() if re.fullmatch(r"w[0-9]{1,9}", name) and values
    }
    return Draft(
        given.get("alpha", [ALPHA])[-1], dict(sorted(ticked.items())), weights, bool(given.get("allow_yanked"))
    )


def draft_of(recipe: schemas.Recipe, draft: Draft | None = None) -> Draft:
    """Return a recipe as a draft; with a draft, merged into it, where the draft takes precedence.

    Raises:
        InvalidRequest: The recipe has too many patches.
    """
    listed = [item for item in recipe.patches if item.number]
    require_few(len(listed))
    start = Draft(
        recipe.alpha,
        {item.number: item.revision for item in sorted(listed, key=lambda item: item.number)},
        {item.number: item.weight for item in listed},
        any(item.state == "yanked" for item in listed),
    )
    if draft is None:
        return start
    return replace(
        start, ticked=dict(sorted({**start.ticked, **draft.ticked}.items())), weights={**start.weights, **draft.weights}
    )


def require_few(count: int) -> None:
    """Refuse more patches than a draft may hold.

    Raises:
        InvalidRequest: There are more.
    """
    if count > MOST:
        raise InvalidRequest(
            f"The recipe editor takes at most {MOST} patches; `crumb compose` takes more.", field="patch"
        )
