"""Deltas of small models in every dtype: what they make, how large they are, and what is refused of a stranger's."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.deltas import applying, making
from registry.breadcrumbs.deltas.applying import apply_delta, check_tensors, write_carried
from registry.breadcrumbs.deltas.delta_file import FORMAT, Ends, format_metadata, open_delta
from registry.breadcrumbs.deltas.making import make_delta
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_files
from registry.breadcrumbs.formats.header import BITS, TensorSpec, format_header
from registry.breadcrumbs.formats.layout import format_tensors
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.errors import BaseMismatch, CheckpointMismatch, InvalidCheckpoint, InvalidPatch, InvalidRequest
from registry.files.hashing import hash_file
from registry.files.progress import Meter

NAME = "model.safetensors"


def write(folder: Path, tensors: dict[str, tuple[TensorSpec, bytes]], config: str = "{}") -> Path:
    """Write a model of raw tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    header = format_header([(name, spec.dtype, spec.shape) for name, (spec, _) in tensors.items()], {"format": "pt"})
    (folder / NAME).write_bytes(header + b"".join(raw for _, raw in tensors.values()))
    (folder / "config.json").write_text(config)
    return folder


def ends_of(before: Path, after: Path, **more: str) -> Ends:
    found = [{file.name: file for file in folder.iterdir()} for folder in (before, after)]
    hashes = [{name: hash_file(file) for name, file in files.items()} for files in found]
    pairs = {name: (hashes[0].get(name, ""), hashes[1].get(name, "")) for name in hashes[0] | hashes[1]}
    return Ends(digest_files(found[0]), digest_files(found[1]), pairs, **more)


def make(before: Path, after: Path, out: Path, **more: str):
    ends = ends_of(before, after, **more)
    with open_checkpoint(before) as old, open_checkpoint(after) as new:
        return make_delta(old, new, out, ends, {path: after / path for path in ends.carried})


def put(before: Path, delta: Path) -> bytes:
    """Return the weight file that a delta makes."""
    out = io.BytesIO()
    with open_checkpoint(before) as old, open_delta(delta) as opened:
        check_tensors(old, opened)
        sha256 = apply_delta(old, opened, NAME, out, Meter(0, None))
    (delta.parent / "made").write_bytes(out.getvalue())
    assert hash_file(delta.parent / "made") == sha256
    return out.getvalue()


@st.composite
def revisions(draw: st.DrawFn) -> tuple[dict, dict]:
    """Two revisions of a model: tensors of any dtype, of which from none to all elements differ."""
    before, after = {}, {}
    for number in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(sorted(BITS)))
        rows, columns = draw(st.integers(0, 20)), draw(st.sampled_from([1, 4, 13 * 4, 64]))
        columns *= 1 if BITS[dtype] % 8 == 0 else 4  # whole bytes
        spec = TensorSpec(dtype, (rows, columns))
        random = np.random.default_rng(draw(st.integers(0, 2**32)))
        old = random.integers(0, 256, spec.bytes, np.uint8)
        share = draw(st.sampled_from([0, 0.003, 0.02, 0.1, 1]))
        new = np.where(random.random(old.size) < share, random.integers(0, 256, old.size, np.uint8), old)
        if BITS[dtype] == 16 and draw(st.booleans()):  # most elements a little higher or lower
            near = random.integers(-140, 140, old.size // 2, np.int16)
            new = (new.view(np.int16) + near * (random.random(near.size) < 0.5)).view(np.uint8)
        name = f"tensor {number} é"
        before[name], after[name] = (spec, old.tobytes()), (spec, new.tobytes())
    return before, after


@settings(deadline=None, max_examples=60)
@given(revisions(), st.sampled_from([8, 64, 2**20]))
def test_a_delta_makes_the_later_revision_bit_for_bit_of_the_earlier(tmp_path_factory, pair, step):
    folder = tmp_path_factory.mktemp("delta")
    before, after = (write(folder / name, tensors) for name, tensors in zip("ba", pair, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        for module in (making, applying):
            patch.setattr(
                module, "blocks", lambda count, size=step: ((s, min(s + size, count)) for s in range(0, count, size))
            )
        patch.setattr(applying, "INDICES_READ", 3)
        if (before / NAME).read_bytes() == (after / NAME).read_bytes():
            with pytest.raises(InvalidRequest, match="the same"):
                make(before, after, folder / "d.safetensors")
            return
        info = make(before, after, folder / "d.safetensors")
        assert put(before, folder / "d.safetensors") == (after / NAME).read_bytes()
    with open_delta(folder / "d.safetensors") as opened:
        assert opened.info == info
    assert info.size == (folder / "d.safetensors").stat().st_size


def test_what_a_changed_alpha_moves_takes_a_byte_an_element(tmp_path):
    random = np.random.default_rng(2)
    bits = random.integers(0, 2**16, 8000, np.uint16)
    moved = bits + random.integers(1, 128, 8000).astype(np.uint16)
    moved[::100] += 1000
    far, spec = 80, TensorSpec("BF16", (8000,))
    before, after = (write(tmp_path / name, {"w": (spec, one.tobytes())}) for name, one in (("b", bits), ("a", moved)))
    info = make(before, after, tmp_path / "d.safetensors")
    with open_delta(tmp_path / "d.safetensors") as opened:
        assert opened.info == info and info.nnz == {"w": 8000}
        assert opened.entry("w.steps.values").shape == (8000 - far,) and opened.entry("w.values").shape == (far,)
        assert opened.entry("w.steps.bitmask") and opened.entry("w.indices")
    assert put(before, tmp_path / "d.safetensors") == (after / NAME).read_bytes()
    header, parts = take_apart(tmp_path / "d.safetensors")
    parts["w.steps.values"] = parts["w.steps.values"][:-1]
    header["w.steps.values"]["shape"] = [8000 - far - 1]
    put_together(tmp_path / "d.safetensors", header, parts)
    with pytest.raises(InvalidPatch, match=r"w\.steps\.values.*another number of values"):
        put(before, tmp_path / "d.safetensors")


def test_steps_are_not_kept_where_another_tensor_has_their_name(tmp_path):
    spec, old, near, far = TensorSpec("BF16", (64,)), bytes(128), b"\1\0" * 64, b"\1\1" * 64
    before = write(tmp_path / "b", {"w": (spec, old), "w.steps": (spec, old)})
    after = write(tmp_path / "a", {"w": (spec, near), "w.steps": (spec, far)})
    make(before, after, tmp_path / "d.safetensors")
    assert put(before, tmp_path / "d.safetensors") == (after / NAME).read_bytes()


D, S = TensorSpec("BF16", (1001,)), TensorSpec("F16", (10, 100))


def sample(folder: Path) -> tuple[Path, Path, Path]:
    """Write two revisions and their delta: one tensor with a bitmask, one with indices, one that is the same."""
    random = np.random.default_rng(1)
    dense, sparse = random.integers(0, 2**16, 1001, np.uint16), random.integers(0, 2**16, 1000, np.uint16)
    new_dense, new_sparse = dense.copy(), sparse.copy()
    new_dense[::3] += 1000
    new_sparse[[5, 500, 999]] += 1000
    kept = (TensorSpec("I64", (2,)), bytes(16))
    pairs = [
        {"d": (D, one.tobytes()), "k": kept, "s": (S, two.tobytes())}
        for one, two in ((dense, sparse), (new_dense, new_sparse))
    ]
    before, after = write(folder / "before", pairs[0]), write(folder / "after", pairs[1], '{"later": 1}')
    (after / "added.txt").write_text("added")
    make(before, after, folder / "d.safetensors", model="ana/llm", before_ref="1.0.0", after_ref="1.1.0")
    return before, after, folder / "d.safetensors"


def test_the_smaller_of_bitmask_and_indices_is_kept_with_values_of_the_tensors_own_dtype(tmp_path):
    _, _, delta = sample(tmp_path)
    with open_delta(delta) as opened:
        info = opened.info
        assert {name: opened.entry(name).dtype for name in ("d.bitmask", "d.values", "s.indices", "s.values")} == {
            "d.bitmask": "U8",
            "d.values": "BF16",
            "s.indices": "I32",
            "s.values": "F16",
        }
        assert [opened.entry(name) for name in ("s.bitmask", "k.values")] == [None, None]
        assert info.nnz == {"d": 334, "s": 3}
        assert info.ends.carried == ["added.txt", "config.json"]
        held = {}
        for path in info.ends.carried:
            held[path] = io.BytesIO()
            write_carried(opened, path, held[path])
        assert held["added.txt"].getvalue() == b"added"
        assert held["config.json"].getvalue() == b'{"later": 1}'


def test_the_same_revisions_give_the_same_file(tmp_path):
    one, two = sample(tmp_path / "one")[2], sample(tmp_path / "two")[2]
    assert one.read_bytes() == two.read_bytes()


def test_a_delta_is_no_model_and_no_patch(tmp_path):
    sample(tmp_path)
    with pytest.raises(InvalidPatch, match="apply-delta"):
        open_patch(tmp_path / "d.safetensors")
    with pytest.raises(InvalidCheckpoint, match="breadcrumb delta"):
        open_checkpoint(tmp_path / "d.safetensors")


def test_only_revisions_in_the_same_files_have_a_delta(tmp_path):
    before, after, _ = sample(tmp_path)
    (after / NAME).rename(after / "other.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"in other\.safetensors"):
        make(before, after, tmp_path / "no")
    other = write(tmp_path / "other", {"d": (TensorSpec("BF16", (1001,)), bytes(2002))})
    with pytest.raises(CheckpointMismatch, match="other tensors"):
        make(before, other, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_model_without_the_tensors_is_named(tmp_path):
    _, _, delta = sample(tmp_path)
    other = write(tmp_path / "other", {"d": (TensorSpec("BF16", (1001, 1)), bytes(2002))})
    with pytest.raises(BaseMismatch, match="no such tensor"):
        put(other, delta)


def take_apart(delta: Path) -> tuple[dict, dict[str, bytes]]:
    """Return a delta's header and the bytes of its entries."""
    raw = delta.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    data = raw[8 + length :]
    return header, {name: data[slice(*spec["data_offsets"])] for name, spec in header.items() if name != "__metadata__"}


def put_together(delta: Path, header: dict, parts: dict[str, bytes], shapes: dict | None = None) -> None:
    entries = [
        (name, header[name]["dtype"], (shapes or {}).get(name) or tuple(header[name]["shape"])) for name in parts
    ]
    delta.write_bytes(format_header(entries, header["__metadata__"]) + b"".join(parts.values()))


DATA = {
    "a padding bit": ("d.bitmask", lambda raw: raw[:-1] + bytes([raw[-1] | 0x80]), "padding bit"),
    "a bit more": ("d.bitmask", lambda raw: bytes([raw[0] | 2]) + raw[1:], "another number of values"),
    "a bit less": ("d.bitmask", lambda raw: bytes([raw[0] & 0xFE]) + raw[1:], "another number of values"),
    "indices that fall": ("s.indices", lambda raw: raw[4:8] + raw[:4] + raw[8:], "do not strictly increase"),
    "an index twice": ("s.indices", lambda raw: raw[:4] + raw[:4] + raw[8:], "do not strictly increase"),
    "an index past the end": ("s.indices", lambda raw: raw[:8] + (1000).to_bytes(4, "little"), "do not strictly"),
    "an index below 0": ("s.indices", lambda raw: b"\xff\xff\xff\xff" + raw[4:], "do not strictly increase"),
}  # fmt: skip


@pytest.mark.parametrize("how", DATA)
@pytest.mark.parametrize("step", [1, 2**16])
def test_data_that_breaks_a_rule_is_refused_where_it_is_read(tmp_path, monkeypatch, how, step):
    before, _, delta = sample(tmp_path)
    monkeypatch.setattr(applying, "INDICES_READ", step)
    header, parts = take_apart(delta)
    entry, spoil, words = DATA[how]
    put_together(delta, header, {**parts, entry: spoil(parts[entry])})
    with pytest.raises(InvalidPatch, match=f"{entry.partition('.')[0]}.*{words}"):
        put(before, delta)


def edit(**changes):
    return lambda metadata: {**metadata, **changes}


def add_file(path, pair):
    def changed(metadata):
        files = {**json.loads(metadata["files"]), path: pair}
        return {**metadata, "files": json.dumps(dict(sorted(files.items())), separators=(",", ":"))}

    return changed


SHA = "0" * 64
METADATA = {
    "a patch": (edit(format="breadcrumb-patch"), "not a delta"),
    "another version": (edit(version="2"), "reads 1"),
    "no digest": (edit(before="sha256:0"), "before is"),
    "a model's name that is none": (edit(model="../x"), "model is"),
    "a reference that is none": (edit(after_ref="a b"), "after_ref is"),
    "an unknown key": (edit(more="1"), "unknown"),
    "a key less": (lambda metadata: {k: v for k, v in metadata.items() if k != "files"}, "no files"),
    "tensors that are none": (edit(tensors="{"), "tensors"),
    "a tensor more": (edit(tensors=format_tensors({"d": D, "s": S, "x": S})), "missing"),
    "a tensor less": (edit(tensors=format_tensors({"d": D})), "belongs to nothing"),
    "a larger tensor": (edit(tensors=format_tensors({"d": TensorSpec("BF16", (1009,)), "s": S})), "shape"),
    "another dtype": (edit(tensors=format_tensors({"d": TensorSpec("F16", (1001,)), "s": S})), "dtype"),
    "files that are none": (edit(files="[[["), "not an object"),
    "nested without end": (edit(files="[" * 100_000), "not an object"),
    "files without digests": (edit(files='{"a":["x","y"]}'), "no sha256"),
    "files of numbers": (edit(files='{"a":[1,2]}'), "not an object"),
    "files written otherwise": (lambda m: {**m, "files": m["files"] + " "}, "compact"),
    "a path that leads out": (add_file("../x", [SHA, SHA]), "not a plain relative path"),
    "an absolute path": (add_file("/etc/x", [SHA, SHA]), "not a plain relative path"),
    "a hidden file": (add_file(".bashrc", [SHA, SHA]), "not a plain relative path"),
    "a pickle": (add_file("x.bin", [SHA, SHA]), "pickle"),
    "a path twice": (add_file("CONFIG.json", [SHA, SHA]), "one file on some systems"),
    "a file that it does not hold": (add_file("z.txt", ["", SHA]), "z.txt.file"),
    "a file held in vain": (add_file("added.txt", [SHA, SHA]), "belongs to nothing"),
    "a weight file that is new": (add_file("x.safetensors", ["", SHA]), "both revisions"),
    "files without end": (edit(files="x" * 8_000_001), "longer"),
}  # fmt: skip


@pytest.mark.parametrize("how", METADATA)
def test_a_header_that_breaks_a_rule_is_refused_before_anything_is_read(tmp_path, how):
    _, _, delta = sample(tmp_path)
    header, parts = take_apart(delta)
    change, words = METADATA[how]
    header["__metadata__"] = change(header["__metadata__"])
    put_together(delta, header, parts)
    with pytest.raises(InvalidPatch, match=words):
        open_delta(delta)


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_delta_that_is_cut_off_is_refused(tmp_path, cut):
    _, _, delta = sample(tmp_path)
    delta.write_bytes(delta.read_bytes()[:cut])
    with pytest.raises(InvalidPatch, match=r"d\.safetensors"):
        open_delta(delta)


def test_a_delta_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    before, _, delta = sample(tmp_path)
    with open_checkpoint(before) as old, open_delta(delta) as opened:
        with delta.open("r+b") as file:
            file.truncate(delta.stat().st_size // 3)
        with pytest.raises(InvalidPatch, match="became shorter"):
            apply_delta(old, opened, NAME, io.BytesIO(), Meter(0, None))


def test_only_so_long_a_header_is_written_as_readers_take(tmp_path, monkeypatch):
    before, after, _ = sample(tmp_path)
    monkeypatch.setattr(making, "PATCH_LIMITS", making.PATCH_LIMITS.__class__(100, 10, 10))
    with pytest.raises(InvalidRequest, match="readers take"):
        make(before, after, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_the_metadata_says_what_the_delta_lies_between():
    ends = Ends("sha256:" + SHA, "sha256:" + SHA, {"b": ("", SHA), "a": (SHA, "")}, "ana/llm", "1.0.0", "1.1.0")
    metadata = format_metadata(ends, {})
    assert metadata["format"] == FORMAT
    assert metadata["files"] == f'{{"a":["{SHA}",""],"b":["","{SHA}"]}}'
    assert (metadata["before_ref"], metadata["after_ref"], metadata["tensors"]) == ("1.0.0", "1.1.0", "{}")
