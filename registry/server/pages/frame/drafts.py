"""Drafts of recipes: the fields of the recipe editor's form, and the same as the query of an address.

    patch=3 & patch=7.2 & w3=0.5 & w7=1 & t3=layers.0.*=0.5 lm_head.*=0 & method=ties & alpha=0.3 & allow_yanked=on

Weights are decimals, kept as they were typed: they are never converted to floats. `t3` has the weights by tensor.
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
    """Ticked patches by number, each with its revision (None for the newest), and weights by number, ticked or not.

    `factors` has weights by tensor as they were typed, by number: GLOB=FACTOR, with blanks between.
    """

    alpha: str = ALPHA
    method: str = "sum"
    ticked: Mapping[int, int | None] = field(default_factory=dict)
    weights: Mapping[int, str] = field(default_factory=dict)
    factors: Mapping[int, str] = field(default_factory=dict)
    allow_yanked: bool = False

    def weight(self, number: int) -> str:
        """Return the weight of a patch, as it was typed."""
        return self.weights.get(number, "1")

    def query(self) -> dict[str, str | list[str]]:
        """Return the draft as fields of an address."""
        weighted = {f"w{number}": self.weights[number] for number in self.ticked if self.weight(number) != "1"}
        factored = {f"t{number}": self.factors[number] for number in self.ticked if self.factors.get(number)}
        return {
            "patch": [reference(number, revision) for number, revision in self.ticked.items()],
            **weighted,
            **factored,
            "alpha": self.alpha,
            "method": self.method if self.method != "sum" else "",
            "allow_yanked": "on" if self.allow_yanked else "",
        }

    def request(self) -> schemas.RecipeRequest:
        """Return the draft as a body of the API.

        Raises:
            InvalidRequest: A weight, a factor or alpha is not a decimal, or the method is unknown; the message names
                which.
        """
        items = [
            {"number": number, "revision": revision, "weight": self.weight(number), "where": self.where(number)}
            for number, revision in self.ticked.items()
        ]
        try:
            return schemas.RecipeRequest.model_validate(
                {"alpha": self.alpha, "method": self.method, "patches": items, "allow_yanked": self.allow_yanked}
            )
        except ValidationError as why:
            first = why.errors(include_url=False, include_context=False)[0]
            at, given = first["loc"], str(first["input"])[:80]
            if at[0] == "method":
                raise InvalidRequest(f"The method must be sum, ties or mean, not {given!r}.", field="method") from None
            what = "Alpha"
            if at[0] == "patches":
                part = "A factor" if at[2] == "where" else "The weight"
                what = f"{part} of patch #{items[int(at[1])]['number']}"
            words = "auto, or a decimal" if at[0] == "alpha" else "a decimal"
            raise InvalidRequest(f"{what} must be {words} like 0.5 or -1.25, not {given!r}.", field="patches") from None

    def where(self, number: int) -> list[tuple[str, str]]:
        """Return the weights by tensor of a patch: (glob, factor).

        Raises:
            InvalidRequest: They are not GLOB=FACTOR with blanks between.
        """
        pairs = [word.rpartition("=") for word in self.factors.get(number, "").split()]
        for glob, _, factor in pairs:
            if not glob or not factor:
                raise InvalidRequest(
                    f"Weights by tensor of patch #{number} are written like layers.0.*=0.5 lm_head.*=0, "
                    f"not {self.factors[number][:80]!r}.",
                    field="where",
                )
        return [(glob, factor) for glob, _, factor in pairs]


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
    return Draft(
        given.get("alpha", [ALPHA])[-1],
        (given.get("method") or ["sum"])[-1],
        dict(sorted(ticked.items())),
        numbered(given, "w"),
        numbered(given, "t"),
        bool(given.get("allow_yanked")),
    )


def numbered(given: Fields, letter: str) -> dict[int, str]:
    """Return the fields of a form that are a letter and the number of a patch, by number."""
    return {
        int(name[1:]): values[-1]
        for name, values in given.items()
        if re.fullmatch(rf"{letter}[0-9]{{1,9}}", name) and values
    }


def draft_of(recipe: schemas.Recipe, draft: Draft | None = None) -> Draft:
    """Return a recipe as a draft; with a draft, merged into it, where the draft takes precedence.

    Raises:
        InvalidRequest: The recipe has too many patches.
    """
    listed = [item for item in recipe.patches if item.number]
    require_few(len(listed))
    start = Draft(
        recipe.alpha,
        recipe.method,
        {item.number: item.revision for item in sorted(listed, key=lambda item: item.number)},
        {item.number: item.weight for item in listed},
        {item.number: " ".join(f"{glob}={factor}" for glob, factor in item.where) for item in listed if item.where},
        any(item.state == "yanked" for item in listed),
    )
    if draft is None:
        return start
    return replace(
        start,
        ticked=dict(sorted({**start.ticked, **draft.ticked}.items())),
        weights={**start.weights, **draft.weights},
        factors={**start.factors, **draft.factors},
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
