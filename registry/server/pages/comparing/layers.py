"""Where a tensor is in a model: its layer and its projection, read from its name.

    model.layers.3.mlp.up_proj.weight          layers 3            mlp.up_proj
    model.encoder.layers.0.fc1.bias            encoder.layers 0    fc1.bias
    model.layers.0.mlp.experts.7.w1.weight     layers 0            mlp.experts.*.w1
    lm_head.weight                                                 lm_head.weight

Names are strangers' words of up to 64 KiB: they are split at dots once, and no number of more than six digits counts.
"""

from collections.abc import Mapping, Sequence

_AROUND = ("base_model", "model", "module", "transformer")  # say nothing, in front of what does
_DIGITS = 6
OUTSIDE = "outside layers"


def place(name: str) -> tuple[str, str]:
    """Split the name of a tensor into its layer and its projection.

    Args:
        name: Such as `model.layers.3.mlp.up_proj.weight`.

    Returns:
        `layers 3` and `mlp.up_proj`; an empty layer and the name, if there is no number in it.
    """
    _, stem, number, projection = _split(name)
    if not number:
        return "", name
    return f"{'.'.join(stem)} {number}".strip(), projection


def grid(values: Mapping[str, float]) -> tuple[list[str], list[str], list[list[float | None]]]:
    """Add up values, such as energies, by layer and projection.

    Args:
        values: By the names of tensors; the order does not matter.

    Returns:
        Layers in the order of their numbers, with tensors outside of them last; projections; and the sums, of shape
        (layers, projections), None where a layer has no such projection.
    """
    split = {name: _split(name) for name in sorted(values)}
    fronts: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for around, stem, number, _ in split.values():
        if number:
            fronts.setdefault(stem, set()).add(around)
    rows: dict[tuple[bool, str, int, str], str] = {}
    sums: dict[tuple[str, str], float] = {}
    inside: dict[str, bool] = {}
    for name, (around, stem, number, projection) in split.items():
        whole = (*around, *stem) if len(fronts.get(stem, ())) > 1 else stem  # two stacks that differ in front alone
        row = f"{'.'.join(whole)} {number}".strip() if number else OUTSIDE
        column = projection if number else name
        rows[(not number, ".".join(whole) if number else "", int(number or 0), row)] = row
        sums[row, column] = sums.get((row, column), 0.0) + values[name]
        inside[column] = inside.get(column, False) or bool(number)
    layers = list(dict.fromkeys(rows[key] for key in sorted(rows)))
    columns = sorted(inside, key=lambda column: (not inside[column], _counted(column)))
    return layers, columns, [[sums.get((row, column)) for column in columns] for row in layers]


def _split(name: str) -> tuple[tuple[str, ...], tuple[str, ...], str, str]:
    """Return what stands around the layers, what they are called, the number, and the projection."""
    parts = name.split(".")
    at = next((place for place, part in enumerate(parts[:-1]) if _is_number(part)), None)
    if at is None:
        return (), (), "", name
    begin = 0
    while begin < at - 1 and parts[begin] in _AROUND:
        begin += 1
    rest = parts[at + 1 :]
    if len(rest) > 1 and rest[-1] == "weight":
        rest = rest[:-1]
    rest = [
        "*" if place and _is_number(part) and rest[place - 1].endswith("experts") else part
        for place, part in enumerate(rest)
    ]
    return tuple(parts[:begin]), tuple(parts[begin:at]), parts[at], ".".join(rest)


def _is_number(part: str) -> bool:
    return 0 < len(part) <= _DIGITS and part.isascii() and part.isdigit()


def _counted(name: str) -> Sequence[tuple[int, int, str]]:
    """Return a key that sorts names by their parts, numbers by their size."""
    return [(0, int(part), part) if _is_number(part) else (1, 0, part) for part in name.split(".")]
