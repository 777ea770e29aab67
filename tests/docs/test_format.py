"""docs/reference/format.md and reference.py beside the code: the same files, the same digests, the same models."""

import ast
import importlib.util
import re
from collections.abc import Sequence
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.header import BITS, CHECKPOINT_LIMITS, PATCH_LIMITS
from registry.breadcrumbs.formats.layout import METADATA_KEYS, MaskParams
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import Item, make_recipe, scale
from registry.errors import InvalidPatch
from tests.support.science_makers import build

ROOT = Path(__file__).parents[2]
FORMAT = (ROOT / "docs/reference/format.md").read_text("utf-8")
SCRIPT = ROOT / "docs/reference/reference.py"
GOLDEN = ROOT / "tests/breadcrumbs/golden"

spec = importlib.util.spec_from_file_location("reference", SCRIPT)
assert spec and spec.loader
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)

FLOATING = ("F64", "F32", "F16", "BF16")
SHAPES = ((), (1,), (7,), (3, 5), (2, 4, 3), (0, 3), (70,))
drops = st.sampled_from(
    [("0.85", "0.007"), ("0.5", "0.1"), ("0", "0"), ("0.29", "0.3"), ("0.97", "0"), ("0.6", "0.05")]
)
decimals = st.sampled_from(["0", "0.3", "1", "-0.25", "1.5", "0.0000001", "0.30000001192092896", "3"])


factors = st.lists(
    st.tuples(
        st.sampled_from(["layer.0", "layer.[12]", "l*.?", "*", "nowhere"]), st.sampled_from(["0", "0.5", "1", "3"])
    ),
    max_size=2,
)


@st.composite
def checkpoints(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Draw a base, with an integer tensor in it, and fine-tuned files of the same tensors, in dtypes of their own."""
    chosen = [(draw(st.sampled_from(FLOATING)), draw(st.sampled_from(SHAPES))) for _ in range(draw(st.integers(1, 4)))]
    count = draw(st.integers(1, 3))
    files: list[list[tuple[str, str, list[int], bytes]]] = [[] for _ in range(count + 1)]
    halves = st.floats(-8, 8, width=16)
    for place, (dtype, shape) in enumerate(chosen):
        size, old = int(np.prod(shape)), None
        for number, entries in enumerate(files):
            values = draw(arrays(np.float16, size, elements=halves, fill=st.nothing())).astype(np.float64)
            if draw(st.booleans()):  # all bits of a number in use, and in a sum of several
                random = np.random.default_rng(draw(st.integers(0, 2**32)))
                values = random.standard_normal(size) * 10.0 ** random.integers(-6, 1, size)
            if number and draw(st.booleans()):  # weights that stay
                values = np.where(values > 0, values, old)
            code = draw(st.sampled_from([dtype, *FLOATING])) if number else dtype
            raw = reference.encode(values, code)
            old = reference.decode(code, raw) if not number else old
            entries.append((f"layer.{place}", code, list(shape), raw))
    for entries in files:
        entries.insert(1, ("steps", "I64", [2], bytes(16)))
    return build({"format": "pt"}, files[0]), [build(None, entries) for entries in files[1:]]


@settings(max_examples=60, deadline=None)
@given(
    files=checkpoints(),
    drop=drops,
    granularity=st.sampled_from(["tensor", "row"]),
    value_dtype=st.sampled_from(["auto", "F32", "BF16", "F16"]),
    alpha=decimals,
    weights=st.lists(decimals, min_size=3, max_size=3),
    where=st.lists(factors, min_size=3, max_size=3),
    method=st.sampled_from(["sum", "ties", "mean"]),
)
def test_the_engine_makes_what_the_reference_makes(
    tmp_path_factory, files, drop, granularity, value_dtype, alpha, weights, where, method
) -> None:
    if method != "sum":  # takes weights above 0
        weights = [weight if Fraction(weight) > 0 else "0.5" for weight in weights]
    params = (*drop, granularity, value_dtype)
    compare(tmp_path_factory.mktemp("format"), *files, params, alpha, weights, where, method)


def test_the_order_of_additions_is_that_of_the_digests(tmp_path) -> None:
    random = np.random.default_rng(5)
    files = [build(None, [("w", "F64", [300], random.standard_normal(300).tobytes())]) for _ in range(4)]
    compare(tmp_path, files[0], files[1:], ("0", "0", "tensor", "auto"), "0.3", ["3", "-0.25", "1"])


def compare(
    folder: Path,
    base: bytes,
    tuned: Sequence[bytes],
    params: tuple[str, str, str, str],
    alpha: str,
    weights: Sequence[str],
    where: Sequence[Sequence[tuple[str, str]]] = ((), (), ()),
    method: str = "sum",
) -> None:
    """Make patches and a model by the engine and by the reference; every file and digest is the same."""
    (folder / "model.safetensors").write_bytes(base)
    patches: dict[str, bytes] = {}
    with open_checkpoint(folder / "model.safetensors") as before:
        for number, raw in enumerate(tuned):
            (folder / f"{number}.safetensors").write_bytes(raw)
            expected = reference.make_patch(base, raw, *params)
            with open_checkpoint(folder / f"{number}.safetensors") as after:
                try:
                    found = diff(before, after, folder / "patch", MaskParams(*params))
                except InvalidPatch:  # no change is left, and no patch
                    assert b'"tensors":"{}"' in expected
                    continue
            assert (folder / "patch").read_bytes() == expected
            assert (found.sha256, found.base) == (sha256(expected).hexdigest(), reference.weights_digest(base))
            patches[found.sha256] = expected
        items = [Item(*item) for item in zip(patches, weights, map(tuple, where), strict=False)]
        recipe = make_recipe(reference.weights_digest(base), alpha, items, method)
        assert recipe.digest == reference.recipe_digest(recipe.base, alpha, items, method)
        for digest, raw in patches.items():
            (folder / digest).write_bytes(raw)
        opened = {digest: open_patch(folder / digest) for digest in patches}
        (folder / "out").mkdir()
        made = compose(before, opened, recipe, folder / "out", "cpu")
        for patch in opened.values():
            patch.close()
    expected = reference.compose(base, alpha, [(patches[digest], *how) for digest, *how in items], method)
    assert (folder / "out" / "model.safetensors").read_bytes() == expected
    assert made.weights_digest == reference.weights_digest(expected)


@example("1.000000059604644775390625", "1")  # in the middle: the even one
@example("1.00000005960464477539062500000001", "1")  # a little more, which float64 cannot tell
@given(*[st.decimals("-1000", "1000", places=15).map("{:f}".format)] * 2)
def test_scales_are_rounded_alike(alpha, weight) -> None:
    assert scale(alpha, weight) == float(reference.scale(alpha, weight))


def test_what_is_not_finite_in_a_base_keeps_its_bits() -> None:
    entries = [("w", "F32", [3], np.array([np.nan, 1, -0.0], "<f4").tobytes())]
    base = build(None, entries)
    tuned = build(None, [("w", "F32", [3], np.array([1, 2, 3], "<f4").tobytes())])
    with np.errstate(invalid="ignore"):
        composed = reference.compose(base, "1", [(reference.make_patch(base, tuned, "0", "0"), "1", [])])
    assert reference.read(composed)[1]["w"][2][:4] == entries[0][3][:4]


def test_the_reference_is_short_and_stands_alone() -> None:
    source = SCRIPT.read_text("utf-8")
    tree = ast.parse(source)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names == {"fnmatch", "fractions", "hashlib", "json", "math", "numpy"}
    lines = [line for line in source.splitlines()[1:] if line.strip() and not line.startswith("#")]
    assert len(lines) <= 100


def test_the_golden_files_have_the_digests_in_the_document() -> None:
    base, tuned, patch = ((GOLDEN / f"{name}.safetensors").read_bytes() for name in ("base", "tuned", "v1"))
    stated = dict(re.findall(r"^\| ([a-z0-9 ]+) \| `((?:sha256:)?[0-9a-f]{64})` \|$", FORMAT, re.MULTILINE))
    assert reference.make_patch(base, tuned, "0.6", "0.05") == patch
    assert stated == {
        "weights digest of the base": reference.weights_digest(base),
        "weights digest of the tuned model": reference.weights_digest(tuned),
        "sha256 of the patch": sha256(patch).hexdigest(),
        "recipe digest": reference.recipe_digest(
            reference.weights_digest(base), "0.3", [(sha256(patch).hexdigest(), "1.5", [])]
        ),
        "weights digest of the composition": reference.weights_digest(
            reference.compose(base, "0.3", [(patch, "1.5", [])])
        ),
    }


def test_the_document_names_the_dtypes_and_limits_of_the_reader() -> None:
    codes = re.search(r"all those of safetensors: ([A-Z0-9_, \n]+)\.", FORMAT)
    assert codes and set(re.findall(r"\w+", codes[1])) == set(BITS)
    limits = (
        f"{PATCH_LIMITS.header_bytes:,} bytes, {PATCH_LIMITS.entries:,} entries and tensors of {PATCH_LIMITS.rank} dim"
    )
    assert limits in " ".join(FORMAT.split())
    assert (CHECKPOINT_LIMITS.header_bytes, CHECKPOINT_LIMITS.entries) == (
        PATCH_LIMITS.header_bytes,
        PATCH_LIMITS.entries,
    )


def test_the_document_names_every_key_of_the_metadata() -> None:
    assert {key for key in METADATA_KEYS if f"| `{key}` |" not in FORMAT} == set()
