"""Files that a stranger could send. Each must be refused, and the message must name the entry and the rule."""

import json
import math
import struct

import pytest
import torch

from registry.breadcrumbs.checking.check import check_patch, limits_for
from registry.breadcrumbs.composing.staging import Arena, Stager
from registry.breadcrumbs.formats import blocks
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.errors import BaseMismatch, InvalidPatch
from tests.support.science_makers import build, take_apart, write_model
from tests.support.sound_patch import SPECS, digest, make_sound


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_sound(tmp_path_factory.mktemp("sound"))


def check(folder, content, base):
    path = folder / "candidate"
    path.write_bytes(content)
    return check_patch(path, base, SPECS)


class Case:
    """A sound patch in parts, to be spoiled."""

    def __init__(self, content):
        self.meta, self.entries = take_apart(content)

    def at(self, name):
        return next(i for i, entry in enumerate(self.entries) if entry[0] == name)

    def set(self, name, dtype=None, shape=None, data=None, rename=None):
        i = self.at(name)
        old = self.entries[i]
        self.entries[i] = (
            rename or old[0],
            dtype or old[1],
            old[2] if shape is None else shape,
            old[3] if data is None else data,
        )

    def drop(self, *names):
        self.entries = [entry for entry in self.entries if entry[0] not in names]

    def tensors(self, change):
        table = json.loads(self.meta["tensors"])
        change(table)
        self.meta["tensors"] = json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def indices(self, *values):
        self.set("b.indices", data=struct.pack("<3i", *values))


def test_the_sound_patch_is_accepted_in_any_entry_order(sound, tmp_path):
    report = check(tmp_path, sound, digest(sound))
    assert [(t.name, t.nnz) for t in report.tensors] == [("a", 11), ("b", 3), ("d", 16)]
    case = Case(sound)
    assert check(tmp_path, build(case.meta, case.entries[::-1]), digest(sound)).nnz == 30


def turned(text):
    return json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":"))


NAN, INF = struct.pack("<f", math.nan), struct.pack("<f", -math.inf)
META = "__metadata__"
CASES = {
    "no metadata": (lambda c: c.meta.clear(), None, "not a breadcrumb patch"),
    "no base": (lambda c: c.meta.pop("base"), META, "has no base"),
    "another format": (lambda c: c.meta.update(format="lora"), META, "format is 'lora'"),
    "version 2": (lambda c: c.meta.update(version="2"), META, "version is '2'"),
    "version 01": (lambda c: c.meta.update(version="01"), META, "version"),
    "unknown key": (lambda c: c.meta.update(note="hi"), META, "metadata key 'note' is unknown"),
    "missing key": (lambda c: c.meta.pop("granularity"), META, "has no granularity"),
    "metadata number": (lambda c: c.meta.update(version=1), META, "a string was expected"),
    "decimal not normal": (lambda c: c.meta.update(drop_top="0.0"), META, "drop_top is '0.0', which must be written 0"),
    "decimal exponent": (lambda c: c.meta.update(drop_top="1e-3"), META, "drop_top"),
    "dropping everything": (lambda c: c.meta.update(drop_bottom="1"), META, "drop_bottom"),
    "negative drop": (lambda c: c.meta.update(drop_bottom="-0.1"), META, "drop_bottom"),
    "unknown granularity": (lambda c: c.meta.update(granularity="column"), META, "granularity"),
    "unknown value_dtype": (lambda c: c.meta.update(value_dtype="F64"), META, "value_dtype"),
    "value_dtype of others": (
        lambda c: c.meta.update(value_dtype="BF16"),
        "a.values",
        "dtype is F32, and must be BF16",
    ),
    "base malformed": (lambda c: c.meta.update(base="0" * 64), META, "not a weights digest"),
    "tensors not JSON": (lambda c: c.meta.update(tensors="{"), META, "metadata tensors"),
    "tensors nested": (lambda c: c.meta.update(tensors='{"a":' * 99), META, "metadata tensors"),
    "tensors with spaces": (lambda c: c.meta.update(tensors=c.meta["tensors"].replace(",", ", ")), META, "compact"),
    "tensors unsorted": (lambda c: c.meta.update(tensors=turned(c.meta["tensors"])), META, "sorted"),
    "tensors twice": (
        lambda c: c.meta.update(tensors='{"a":{"dtype":"F32","shape":[1]},"a":{"dtype":"F32","shape":[1]}}'),
        META,
        "twice",
    ),
    "tensors empty": (lambda c: (c.meta.update(tensors="{}"), c.entries.clear()), META, "changes no tensor"),
    "tensors names too much": (lambda c: c.tensors(lambda t: t.update(x=t["a"])), "x.values", "missing"),
    "tensors names too little": (lambda c: c.tensors(lambda t: t.pop("a")), "a.bitmask", "belongs to none"),
    "name not in the base": (
        lambda c: (
            c.tensors(lambda t: t.update(x=t.pop("d"))),
            c.set("d.bitmask", rename="x.bitmask"),
            c.set("d.values", rename="x.values"),
        ),
        "x",
        "base does not have",
    ),
    "another shape": (
        lambda c: c.tensors(lambda t: t["a"].update(shape=[3, 5])),
        "a",
        r"shape \[3, 5\], in the base it is \[5, 3\]",
    ),
    "another dtype": (lambda c: c.tensors(lambda t: t["d"].update(dtype="F32")), "d", "as F32, in the base it is F64"),
    "integer tensor": (lambda c: c.tensors(lambda t: t["d"].update(dtype="I64")), "d", "only floating-point"),
    "shape of a giant": (lambda c: c.tensors(lambda t: t["a"].update(shape=[2**40])), "a.bitmask", "as indices"),
    "shape overflow": (lambda c: c.tensors(lambda t: t["a"].update(shape=[2**40, 2**40])), META, "too many elements"),
    "extra entry": (lambda c: c.entries.append(("x", "U8", [1], b"x")), "x", "belongs to none"),
    "mask without values": (lambda c: c.drop("a.values"), "a.values", "missing"),
    "values without mask": (lambda c: c.drop("a.bitmask"), "a.bitmask", "missing"),
    "both kinds of mask": (
        lambda c: c.entries.append(("a.indices", "I32", [11], struct.pack("<11i", *range(11)))),
        "a.indices",
        "both",
    ),
    "bitmask too short": (
        lambda c: c.set("a.bitmask", shape=[1], data=b"\xff"),
        "a.bitmask",
        r"shape is \[1\], and must be \[2\]",
    ),
    "bitmask too long": (
        lambda c: c.set("a.bitmask", shape=[3], data=b"\xff\x07\0"),
        "a.bitmask",
        r"shape is \[3\], and must be \[2\]",
    ),
    "bitmask of two dimensions": (lambda c: c.set("a.bitmask", shape=[1, 2]), "a.bitmask", r"shape is \[1, 2\]"),
    "bitmask of bools": (lambda c: c.set("a.bitmask", dtype="BOOL"), "a.bitmask", "dtype is BOOL, and must be U8"),
    "padding bit": (lambda c: c.set("a.bitmask", data=b"\xff\x83"), "a.bitmask", "padding bit"),
    "too few bits": (lambda c: c.set("a.bitmask", data=b"\xff\x03"), "a.bitmask", "sets 10 bits, and there are 11"),
    "too many bits": (lambda c: c.set("a.bitmask", data=b"\xff\x0f"), "a.bitmask", "sets 12 bits, and there are 11"),
    "too many values": (
        lambda c: c.set("a.values", shape=[16], data=bytes(64)),
        "a.values",
        "16 values, and its tensor has 15",
    ),
    "no values": (lambda c: c.set("a.values", shape=[0], data=b""), "a.values", "0 values"),
    "a value less": (lambda c: c.set("a.values", shape=[10], data=bytes(40)), "a.bitmask", "sets 11 bits"),
    "values of two dimensions": (lambda c: c.set("a.values", shape=[11, 1]), "a.values", "one dimension"),
    "scalar values": (lambda c: c.set("a.values", shape=[], data=bytes(4)), "a.values", "one dimension"),
    "values as F16": (
        lambda c: c.set("a.values", dtype="F16", data=bytes(22)),
        "a.values",
        "dtype is F16, and must be F32",
    ),
    "values as F64": (
        lambda c: c.set("d.values", dtype="F64", data=bytes(128)),
        "d.values",
        "dtype is F64, and must be F32",
    ),
    "values as integers": (lambda c: c.set("a.values", dtype="I32"), "a.values", "dtype is I32"),
    "NaN": (lambda c: c.set("a.values", data=bytes(20) + NAN + bytes(20)), "a.values", "value number 5 is NaN or Inf"),
    "Inf": (lambda c: c.set("d.values", data=INF + bytes(60)), "d.values", "value number 0 is NaN or Inf"),
    "bfloat16 NaN": (lambda c: c.set("b.values", data=b"\0\0\0\0\xc1\x7f"), "b.values", "value number 2"),
    "index negative": (lambda c: c.indices(-1, 51, 52), "b.indices", r"outside 0..199"),
    "index one too large": (lambda c: c.indices(50, 51, 200), "b.indices", "outside 0..199"),
    "index at the int32 end": (lambda c: c.indices(50, 51, 2**31 - 1), "b.indices", "outside 0..199"),
    "index twice": (lambda c: c.indices(50, 51, 51), "b.indices", "strictly increase"),
    "indices unsorted": (lambda c: c.indices(50, 52, 51), "b.indices", "strictly increase"),
    "indices as I64": (
        lambda c: c.set("b.indices", dtype="I64", data=bytes(24)),
        "b.indices",
        "dtype is I64, and must be I32",
    ),
    "an index less": (
        lambda c: c.set("b.indices", shape=[2], data=bytes(8)),
        "b.indices",
        r"shape is \[2\], and must be \[3\]",
    ),
    "bitmask where indices are due": (
        lambda c: c.set("b.indices", rename="b.bitmask", dtype="U8", shape=[25], data=bytes(25)),
        "b.bitmask",
        "stored as indices",
    ),
    "indices where a bitmask is due": (
        lambda c: c.set("a.bitmask", rename="a.indices", dtype="I32", shape=[11], data=struct.pack("<11i", *range(11))),
        "a.indices",
        "stored as bitmask",
    ),
    "more entries than the base has": (
        lambda c: c.entries.extend((str(i), "U8", [1], b"x") for i in range(9)),
        None,
        "more than the 8 entries",
    ),
    "a giant header": (lambda c: c.meta.update(tensors=" " * 10**6), None, "bytes, more than the"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_patch_is_refused_by_entry_and_rule(sound, tmp_path, name):
    spoil, field, rule = CASES[name]
    case = Case(sound)
    spoil(case)
    with pytest.raises(InvalidPatch, match=rule) as caught:
        check(tmp_path, build(case.meta, case.entries), digest(sound))
    assert caught.value.field == field
    assert field in (None, META) or field in str(caught.value)


@pytest.mark.parametrize("values", [(50, 52, 51), (50, 52, 52)])
def test_order_is_checked_across_blocks(sound, tmp_path, monkeypatch, values):
    monkeypatch.setattr(blocks.blocks, "__defaults__", (2,))
    case = Case(sound)
    case.indices(*values)
    with pytest.raises(InvalidPatch, match="strictly increase"):
        check(tmp_path, build(case.meta, case.entries), digest(sound))


def test_a_patch_for_another_base_is_a_base_mismatch(sound, tmp_path):
    with pytest.raises(BaseMismatch, match="sha256:1111"):
        check(tmp_path, sound, "sha256:" + "1" * 64)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04\x95", b"PK\x03\x04" + bytes(60), bytes(4096), b"\xff" * 64, b"GGUF" + bytes(60)]
)
def test_what_is_no_safetensors_is_refused(tmp_path, content):
    with pytest.raises(InvalidPatch, match="The patch is refused"):
        check(tmp_path, content, "sha256:" + "1" * 64)


def test_a_patch_cut_anywhere_or_with_a_tail_is_refused(sound, tmp_path):
    for length in range(0, len(sound), 7):
        with pytest.raises(InvalidPatch):
            check(tmp_path, sound[:length], digest(sound))
    with pytest.raises(InvalidPatch, match="bytes of data"):
        check(tmp_path, sound + b"PK\x05\x06", digest(sound))


def test_opening_alone_already_checks_the_header(sound, tmp_path):
    case = Case(sound)
    case.set("a.values", dtype="F16", data=bytes(22))
    (tmp_path / "p").write_bytes(build(case.meta, case.entries))
    with pytest.raises(InvalidPatch, match="dtype is F16"):
        open_patch(tmp_path / "p")


@pytest.mark.parametrize("chunk", [40, 64, 200])
@pytest.mark.parametrize("values", [(60, 3, 70), (-5, 3, 250), (50, 50, 50), (199, 0, 199), (3, 70, 2**31 - 1)])
def test_composing_does_not_rest_on_the_check_alone(sound, tmp_path, values, chunk):
    """Indices that are out of order or out of range are refused before any kernel sees them."""
    case = Case(sound)
    case.indices(*values)
    (tmp_path / "p").write_bytes(build(case.meta, case.entries))
    with open_patch(tmp_path / "p") as patch:
        write_model(tmp_path / "base", {n: torch.zeros(spec.shape) for n, spec in patch.info.tensors.items()})
        with open_checkpoint(tmp_path / "base") as base, pytest.raises(InvalidPatch):
            stager, arena = Stager(base, "b", [(patch, 1.0)]), Arena(64)
            for start in range(0, 200, chunk):
                stager.stage(arena, start, min(start + chunk, 200))


@pytest.mark.parametrize("flip", [0, 1, 7, 24])
def test_bits_and_values_that_differ_in_number_are_never_composed(sound, tmp_path, flip):
    case = Case(sound)
    with_bits = next(entry for entry in case.entries if entry[0].endswith(".bitmask"))
    name, size = with_bits[0].removesuffix(".bitmask"), len(with_bits[3])
    broken = bytearray(with_bits[3])
    broken[flip % size] ^= 1 << flip % 8
    entries = [(*entry[:3], bytes(broken)) if entry is with_bits else entry for entry in case.entries]
    (tmp_path / "p").write_bytes(build(case.meta, entries))
    with open_patch(tmp_path / "p") as patch:
        spec = patch.info.tensors[name]
        write_model(tmp_path / "base", {n: torch.zeros(spec.shape) for n, spec in patch.info.tensors.items()})
        with open_checkpoint(tmp_path / "base") as base, pytest.raises(InvalidPatch, match=r"differ in number|padding"):
            Stager(base, name, [(patch, 1.0)]).stage(Arena(64), 0, spec.numel)


def test_limits_grow_with_the_base_and_not_with_the_file():
    limits = limits_for(SPECS)
    assert limits.entries == 2 * len(SPECS)
    assert limits.header_bytes < 20_000
    many = {f"model.layers.{i}.mlp.down_proj.weight": SPECS["a"] for i in range(1000)}
    assert limits.header_bytes < limits_for(many).header_bytes < 4_000_000
