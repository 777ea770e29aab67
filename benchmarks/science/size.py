"""Bytes of a patch per weight over the density, against int32 indices and against what entropy allows.

    ours       1/8 byte of bitmask per weight, or 4 bytes of index per kept one, whichever the format takes; values
    indices    4 bytes of index per kept weight; values
    bound      H(d) / 8 bytes per weight for which weights are kept; values     H(d) = -d log2 d - (1-d) log2 (1-d)

Values are not compressed anywhere: they take the width of their dtype.
"""

import argparse
import math
from dataclasses import replace
from fractions import Fraction

from benchmarks.results import Result, Table, times
from benchmarks.science.cases import Case, Files, add_case, case_of, decimal, workplace
from benchmarks.science.makers import CODES
from registry.breadcrumbs.formats.header import DTYPES

DENSITIES = ("0.001", "0.002", "0.005", "0.01", "0.02", "0.03", "0.04", "0.05", "0.1", "0.143", "0.2", "0.3", "0.5")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_case(parser, params="100M", patches=1, rounds=1)


def run(args: argparse.Namespace) -> Result:
    """Measure patches of many densities; drop_top is 0 here."""
    case = replace(case_of(args), patches=1, drop_top="0")
    with workplace(args, 3 * case.weight_bytes) as files:
        return measure(case, files)


def measure(case: Case, files: Files) -> Result:
    """Measure the patches of one fine-tuned model."""
    files.tuned(case, 1)
    weights, width = case.shape.parameters, DTYPES[CODES[case.dtype]]
    rows, points = [], []
    for density in DENSITIES:
        [patch] = files.patches(replace(case, drop_bottom=decimal(1 - Fraction(density))))
        kept = patch.kept / weights
        ours, indices = patch.size / weights, kept * (4 + width)
        bound = entropy(kept) / 8 + kept * width
        points.append({"density": kept, "ours": ours, "indices": indices, "bound": bound})
        rows.append(
            [
                density,
                f"{kept:.4f}",
                f"{ours:.4f}",
                f"{indices:.4f}",
                f"{bound:.4f}",
                times(ours / indices),
                times(ours / bound),
                f"{ours / width:.1%}",
            ]
        )
    columns = ["density", "kept", "ours", "int32 indices", "bound", "to indices", "to bound", "of the model"]
    table = Table("Bytes per weight of the model", columns, rows)
    parameters = case.document()
    for key in ("patches", "drop_bottom", "density"):
        del parameters[key]
    return Result("size", parameters, [table], (), {"points": points})


def entropy(density: float) -> float:
    """Return how many bits tell whether a weight is kept, when `density` of them are."""
    return -sum(part * math.log2(part) for part in (density, 1 - density) if part > 0)
