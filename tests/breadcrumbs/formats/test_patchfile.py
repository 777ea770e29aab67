import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.checking.check import check_patch
from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.composing.staging import Arena, Stager
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import make_recipe
from registry.errors import CheckpointMismatch, InvalidCheckpoint, InvalidPatch, InvalidRequest, StorageFull
from registry.files import durable
from tests.support.science_makers import decode, raw, read_all, slow_bf16, slow_mask, take_apart, write_model

torch.manual_seed(0)
BASE = {
    "emb": torch.randn(40, 13).bfloat16(),
    "half": torch.randn(7, 9, 3).half(),
    "single": torch.randn(1000),
    "double": torch.randn(11, dtype=torch.float64),
    "scalar": torch.tensor(0.5),
    "empty": torch.zeros(3, 0),
    "ids": torch.arange(4),
}
TUNED = {n: t + torch.randn_like(t) * 0.1 if t.is_floating_point() else t.clone() for n, t in BASE.items()}


def make(folder, base, tuned, params=None, config=None, shards=(1, 1), **options):
    """Diff two checkpoints of tensors; return the patch's path and info."""
    write_model(folder / "base", base, shards[0], config)
    write_model(folder / "tuned", tuned, shards[1])
    with open_checkpoint(folder / "base") as b, open_checkpoint(folder / "tuned") as t:
        return folder / "patch", diff(b, t, folder / "patch", params, **options)


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("bottom", ["0.85", "0.99", "0"])
@pytest.mark.parametrize("value_dtype", ["auto", "BF16", "F32"])
def test_a_patch_holds_what_the_specification_says(tmp_path, granularity, bottom, value_dtype):
    path, info = make(tmp_path, BASE, TUNED, MaskParams(bottom, "0.007", granularity, value_dtype))
    found = decode(path)
    for name in ("emb", "half", "single", "double", "scalar"):
        b, t = BASE[name], TUNED[name]
        delta = (t - b).float() if b.dtype == torch.float64 else t.float() - b.float()
        row = None if granularity == "tensor" else (b.shape or (1,))[-1]
        mask = slow_mask(delta.reshape(-1).tolist(), row, bottom, "0.007")
        values = delta.reshape(-1)[torch.tensor(mask)]
        dtype = read_all(path)[f"{name}.values"].dtype
        due = {"auto": torch.float32 if b.dtype == torch.float64 else b.dtype, "BF16": torch.bfloat16}
        assert dtype == due.get(value_dtype, torch.float32)
        if dtype == torch.float16:
            values = torch.from_numpy(values.numpy().astype("float16")).float()
        rounded = [slow_bf16(v) if dtype == torch.bfloat16 else v for v in values.tolist()]
        assert found[name] == list(zip([i for i, kept in enumerate(mask) if kept], rounded, strict=True))
        assert info.nnz[name] == len(rounded)
    assert set(found) == {"emb", "half", "single", "double", "scalar"}
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.size == path.stat().st_size


def test_the_file_is_laid_out_in_name_order_mask_before_values(tmp_path):
    path, _ = make(tmp_path, BASE, TUNED, MaskParams("0.99", "0"))
    metadata, entries = take_apart(path.read_bytes())
    assert [name for name, *_ in entries] == [
        "double.bitmask", "double.values", "emb.indices", "emb.values", "half.indices", "half.values",
        "scalar.bitmask", "scalar.values", "single.indices", "single.values",
    ]  # fmt: skip
    assert metadata["drop_bottom"] == "0.99" and metadata["drop_top"] == "0" and metadata["value_dtype"] == "auto"
    assert metadata["tensors"].startswith(
        '{"double":{"dtype":"F64","shape":[11]},"emb":{"dtype":"BF16","shape":[40,13]}'
    )
    sizes = [(name, len(data)) for name, _, _, data in entries]
    assert ("double.bitmask", 2) in sizes and ("scalar.values", 4) in sizes


def test_what_is_written_is_read_back_and_passes_the_check(tmp_path):
    path, info = make(tmp_path, BASE, TUNED)
    with open_patch(path) as patch, open_checkpoint(tmp_path / "base") as base:
        report = check_patch(path, digest_checkpoint(base), base.tensors)
        assert patch.info.nnz == info.nnz and patch.info.tensors == info.tensors and patch.info.params == info.params
    assert (report.sha256, report.size, report.nnz) == (info.sha256, info.size, sum(info.nnz.values()))
    assert report.density == report.nnz / sum(t.numel() for t in BASE.values())
    for tensor in report.tensors:
        values = torch.tensor([v for _, v in decode(path)[tensor.name]], dtype=torch.float64)
        assert tensor.l1 == pytest.approx(float(values.abs().sum()))
        assert tensor.l2 == pytest.approx(float(values.norm()))
        assert tensor.linf == float(values.abs().max())


def test_each_part_of_a_file_is_hashed_by_itself_when_asked(tmp_path):
    path, info = make(tmp_path, BASE, TUNED, MaskParams("0.99", "0"))
    data = path.read_bytes()
    with open_checkpoint(tmp_path / "base") as base:
        assert check_patch(path, info.base, base.tensors).header is None
        report = check_patch(path, info.base, base.tensors, extents=True)
    assert report.sha256 == info.sha256
    assert (report.header.start, report.header.stop) == (0, 8 + int.from_bytes(data[:8], "little"))
    _, entries = take_apart(data)
    parts = [extent for tensor in report.tensors for extent in tensor.extents]
    assert [data[part.start : part.stop] for part in parts] == [bytes(content) for *_, content in entries]
    assert parts[-1].stop == len(data)
    for part in (report.header, *parts):
        assert part.sha256 == hashlib.sha256(data[part.start : part.stop]).hexdigest()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_an_unmasked_patch_applied_gives_the_tuned_model_where_it_can_be_exact(tmp_path_factory, data):
    """Multiples of 1/16 below 4 subtract and add without rounding in every dtype."""
    dtype = data.draw(st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]))
    exact = st.integers(-30, 30).map(lambda n: n / 16)
    pairs = data.draw(st.lists(st.tuples(exact, exact), min_size=1, max_size=70))
    base, tuned = ({"w": torch.tensor(column, dtype=dtype)} for column in zip(*pairs, strict=True))
    folder = tmp_path_factory.mktemp("round")
    if torch.equal(base["w"], tuned["w"]):
        return
    path, info = make(folder, base, tuned, MaskParams("0", "0"))
    (folder / "out").mkdir()
    with open_checkpoint(folder / "base") as b, open_patch(path) as patch:
        compose(b, {info.sha256: patch}, make_recipe(info.base, "1", [(info.sha256, "1")]), folder / "out", "cpu")
    assert torch.equal(read_all(folder / "out/model.safetensors")["w"], tuned["w"])


def test_shards_and_threads_change_no_byte(tmp_path):
    digests = set()
    threads = torch.get_num_threads()
    try:
        for number, shards in enumerate(itertools.product((1, 3), (1, 2))):
            torch.set_num_threads(1 + number % 2)
            digests.add(make(tmp_path / str(number), BASE, TUNED, shards=shards)[1].sha256)
    finally:
        torch.set_num_threads(threads)
    assert len(digests) == 1


def test_globs_choose_tensors_and_the_base_digest_stays_whole(tmp_path):
    _, whole = make(tmp_path / "0", BASE, TUNED)
    for number, options in enumerate([{"include": ["s*"]}, {"exclude": ["emb", "[dh]*"]}]):
        _, info = make(tmp_path / f"{number + 1}", BASE, TUNED, **options)
        assert set(info.tensors) == {"scalar", "single"}
        assert info.base == whole.base
    with pytest.raises(InvalidRequest, match=r"No tensor matches `--include 'nothing"):
        make(tmp_path / "4", BASE, TUNED, include=["nothing*"])


def test_excluded_tensors_need_not_fit(tmp_path):
    broken = {
        **TUNED,
        "emb": torch.full((2, 2), float("nan")),
        "ids": torch.zeros(4, dtype=torch.int64),
        "extra": BASE["half"],
    }
    _, info = make(tmp_path, BASE, broken, exclude=["emb", "ids", "extra"])
    assert "emb" not in info.tensors


def test_base_and_tuned_may_be_of_different_floating_dtypes(tmp_path):
    path, _ = make(tmp_path, {"w": torch.tensor([1.0, 2.0]).bfloat16()}, {"w": torch.tensor([1.25, 2.0])})
    assert decode(path) == {"w": [(0, 0.25)]}
    assert read_all(path)["w.values"].dtype == torch.bfloat16


def test_a_value_that_rounds_to_zero_stays_in_the_mask(tmp_path):
    path, _ = make(tmp_path, {"w": torch.tensor([0.0])}, {"w": torch.tensor([1e-30])}, MaskParams(value_dtype="F16"))
    assert decode(path) == {"w": [(0, 0.0)]}


def test_a_value_that_rounds_to_infinity_is_an_error(tmp_path):
    with pytest.raises(InvalidPatch, match=r"'w' is too large for F16"):
        make(tmp_path, {"w": torch.zeros(1)}, {"w": torch.tensor([65520.0])}, MaskParams(value_dtype="F16"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "tuned"]


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_nan_and_inf_are_counted_and_named(tmp_path, side):
    bad = {**BASE, "single": BASE["single"].clone()}
    bad["single"][[3, 5, 999]] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    pair = (bad, TUNED) if side == "base" else (BASE, bad)
    with pytest.raises(InvalidCheckpoint, match=rf"'single' of the {side} checkpoint holds 3 NaN or Inf") as caught:
        make(tmp_path, *pair)
    assert caught.value.field == "single"


def test_everything_that_does_not_fit_is_named_at_once(tmp_path):
    tuned = {**TUNED, "half": torch.zeros(2, 2).half(), "new": torch.zeros(1), "ids": torch.zeros(4)}
    del tuned["single"]
    with pytest.raises(CheckpointMismatch) as caught:
        make(tmp_path, BASE, tuned)
    for told in (
        "4 tensors",
        "'half' has shape [2, 2]",
        "'new' is not in",
        "'ids' has dtype F32",
        "'single' is missing",
    ):
        assert told in str(caught.value)


def test_a_long_list_of_misfits_is_cut_at_twenty(tmp_path):
    base = {f"t{i:02}": torch.zeros(1) for i in range(25)}
    with pytest.raises(CheckpointMismatch, match=r"'t19' is missing.*and 6 more") as caught:
        make(tmp_path, base, {"other": torch.zeros(1)})
    assert "t20" not in str(caught.value)


def test_integer_tensors_that_differ_are_named(tmp_path):
    base = {**BASE, "flags": torch.tensor([True])}
    tuned = {**TUNED, "ids": torch.arange(4).flip(0), "flags": torch.tensor([False])}
    with pytest.raises(CheckpointMismatch, match="BOOL and I64 tensors differ: 'flags', 'ids'; only F64") as caught:
        make(tmp_path, base, tuned)
    assert str(caught.value).endswith("Leave them out: `--exclude flags --exclude ids`.")
    make(tmp_path / "followed", base, tuned, exclude=["flags", "ids"])


def test_no_change_is_no_patch(tmp_path):
    with pytest.raises(InvalidPatch, match="Nothing changed"):
        make(tmp_path, BASE, BASE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "tuned"]


EMB, HEAD = "model.embed_tokens.weight", "lm_head.weight"
W0, W1 = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.5, 2.5]])
TIED = {"text_config": {"tie_word_embeddings": True}}


@pytest.mark.parametrize(
    ("base", "tuned", "changed"),
    [
        ({EMB: W0}, {EMB: W1, HEAD: W1.clone()}, {EMB}),
        ({EMB: W0}, {HEAD: W1}, {EMB}),
        ({HEAD: W0}, {EMB: W1}, {HEAD}),
        ({EMB: W0, HEAD: W0.clone()}, {EMB: W1}, {EMB, HEAD}),
        ({EMB: W0, HEAD: W0.clone()}, {HEAD: W1}, {EMB, HEAD}),
        ({"transformer.wte.weight": W0}, {"transformer.wte.weight": W1, HEAD: W1.clone()}, {"transformer.wte.weight"}),
    ],
)
def test_tied_tensors_are_found_by_their_other_name(tmp_path, base, tuned, changed):
    path, _ = make(tmp_path / "tied", base, tuned, MaskParams("0", "0"), TIED)
    assert decode(path) == {name: [(0, 0.5), (1, 0.5)] for name in changed}
    for config in (None, {"tie_word_embeddings": False}):
        folder = tmp_path / f"not tied {config}"
        if len(base) < 2 and len(tuned) < 2:
            with pytest.raises(CheckpointMismatch, match="not fit"):
                make(folder, base, tuned, MaskParams("0", "0"), config)
        else:  # one side has equal bits for both
            assert decode(make(folder, base, tuned, MaskParams("0", "0"), config)[0]) == decode(path)


def test_a_head_that_the_fine_tuning_untied_is_an_error(tmp_path):
    with pytest.raises(CheckpointMismatch, match=r"untied 'lm_head.weight' from 'model.embed_tokens.weight'"):
        make(tmp_path, {EMB: W0}, {EMB: W1, HEAD: W0.clone()}, config=TIED)


def test_a_head_of_another_shape_is_not_the_embedding(tmp_path):
    with pytest.raises(CheckpointMismatch, match=r"'lm_head\.weight' is not in the base"):
        make(tmp_path, {EMB: W0}, {EMB: W1, HEAD: torch.zeros(2, 2)}, config=TIED)


@pytest.mark.parametrize(
    "fields",
    [
        {"drop_bottom": "0.9", "drop_top": "0.1"}, {"drop_bottom": "-0.1"}, {"drop_top": "x"},
        {"granularity": "column"},
        {"value_dtype": "F64"}, {"value_dtype": "bf16"}, {"drop_bottom": "1"},
    ],
)  # fmt: skip
def test_parameters_out_of_bounds_are_refused(fields):
    with pytest.raises(InvalidRequest):
        MaskParams(**fields)


def test_parameters_are_normalised():
    assert MaskParams("0.850", "0.0070") == MaskParams()


def test_an_error_leaves_nothing_and_an_old_patch_stays(tmp_path):
    path, _ = make(tmp_path, BASE, TUNED)
    old = path.read_bytes()
    with open_checkpoint(tmp_path / "base") as b, open_checkpoint(tmp_path / "tuned") as t:

        def stop(done, total):
            if done > total // 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            diff(b, t, path, progress=stop)
    assert path.read_bytes() == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "patch", "tuned"]


def test_a_full_disk_is_said_so_and_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(StorageFull, match="no room"):
        make(tmp_path, BASE, TUNED)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "tuned"]


def test_a_missing_folder_is_said_so(tmp_path):
    make(tmp_path, BASE, TUNED)
    with (
        open_checkpoint(tmp_path / "base") as b,
        open_checkpoint(tmp_path / "tuned") as t,
        pytest.raises(InvalidRequest, match="does not exist"),
    ):
        diff(b, t, tmp_path / "none" / "patch")


@pytest.mark.parametrize("chunk", [8, 16, 24, 1000])
@pytest.mark.parametrize("drop_bottom", ["0.99", "0.5"])
def test_masks_and_values_are_staged_chunk_by_chunk(tmp_path, drop_bottom, chunk):
    path, _ = make(tmp_path, BASE, TUNED, MaskParams(drop_bottom, "0"))
    arena = Arena(64)
    for name, pairs in decode(path).items():
        with open_patch(path) as patch, open_checkpoint(tmp_path / "base") as base:
            stager, size, found = Stager(base, name, [(patch, 1.0)]), BASE[name].numel(), []
            for start in range(0, size, chunk):
                staged = stager.stage(arena, start, min(start + chunk, size))
                staged.read_rest(arena)
                old = arena.bytes[staged.base_at : staged.base_at + staged.length].tobytes()
                assert old == raw(BASE[name].reshape(-1)[start : start + chunk])
                for mask_at, values_at, code, width, count in staged.table.tolist():
                    dtype = [torch.bfloat16, torch.float16, torch.float32][code]
                    values = torch.frombuffer(arena.view, dtype=dtype, offset=values_at, count=count).double().tolist()
                    if width:
                        places = np.frombuffer(arena.view, f"i{width}", count, mask_at).tolist()
                    else:
                        bits = np.unpackbits(arena.bytes[mask_at : mask_at + (staged.size + 7) // 8], bitorder="little")
                        places = (np.flatnonzero(bits) + start).tolist()
                    found += list(zip(places, values, strict=True))
            assert found == pairs


def test_two_new_tensors_are_no_tie_of_each_other(tmp_path):
    with pytest.raises(CheckpointMismatch, match="2 tensors do not fit"):
        make(tmp_path, {"w": W0}, {"w": W1, EMB: W1 + 1, HEAD: W1 + 1}, config=TIED)


@pytest.mark.parametrize(("size", "kind"), [(32, "bitmask"), (33, "indices")])
def test_one_in_thirty_two_is_still_a_bitmask(tmp_path, size, kind):
    tuned = torch.zeros(size)
    tuned[7] = 1
    path, _ = make(tmp_path, {"w": torch.zeros(size)}, {"w": tuned}, MaskParams("0", "0"))
    assert set(read_all(path)) == {f"w.{kind}", "w.values"}


def test_bytes_are_on_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    done = []
    fsync, rename = durable.os.fsync, durable.Path.rename
    monkeypatch.setattr(durable.os, "fsync", lambda handle: (done.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(durable.Path, "rename", lambda old, new: (done.append("rename"), rename(old, new))[1])
    make(tmp_path, BASE, TUNED)
    assert done == ["fsync", "rename", "fsync"]


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("moved", [slice(0, 200_000), slice(900_000, 1_200_000), slice(2**20, 2**20 + 1000)])
def test_blocks_without_a_kept_element_are_no_trouble(tmp_path, granularity, moved):
    """Only some rows of an embedding were trained, say; blocks are of 2^20 elements."""
    base = torch.randn(1200, 1000)
    tuned = base.clone().reshape(-1)
    tuned[moved] += torch.randn(tuned[moved].shape)
    params = MaskParams("0", "0", granularity, "F32")
    path, info = make(tmp_path, {"e": base}, {"e": tuned.reshape(1200, 1000)}, params)
    changed = torch.nonzero(tuned != base.reshape(-1)).reshape(-1)
    assert info.nnz["e"] == len(changed)
    assert [place for place, _ in decode(path)["e"]] == changed.tolist()


def test_a_mask_that_drops_every_change_says_so(tmp_path):
    base, tuned = torch.zeros(1000), torch.zeros(1000)
    tuned[:5] = 1
    with pytest.raises(InvalidPatch, match="none of 5 changes"):
        make(tmp_path, {"a": base}, {"a": tuned})
    assert not (tmp_path / "patch").exists()
