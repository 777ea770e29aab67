"""Composing on a GPU by the CUDA kernels, on lanes that the CPU stands in for: files, and patches that stay there."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from registry.breadcrumbs.composing import compose as compose_module
from registry.breadcrumbs.composing import staging
from registry.breadcrumbs.composing.compose import find_touching
from registry.breadcrumbs.composing.engines import Rule
from registry.breadcrumbs.composing.gpu import engine as gpu_engine
from registry.breadcrumbs.composing.gpu import launches
from registry.breadcrumbs.composing.gpu.engine import GpuEngine
from registry.breadcrumbs.composing.gpu.held import HeldPatches, HeldTensor, compose_held, read_held
from registry.breadcrumbs.composing.gpu.launches import CudaLaunch, TritonLaunch, pick_launch
from registry.breadcrumbs.composing.staging import Step
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import Item, make_recipe
from registry.breadcrumbs.kernels.cuda import launching
from registry.breadcrumbs.kernels.cuda.compose import BLOCKS
from registry.errors import InvalidPatch
from tests.support.host_lanes import DEVICE
from tests.support.science_makers import PatchedBase, build, read_all, take_apart

VOTING = {"weights": ("1", "0.5", "2"), "where": ((), (("*loat*", "0.25"), ("scalar", "0")), ())}
WAYS = [{}, {"method": "ties", **VOTING}, {"method": "mean", **VOTING}]


@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.get("method", "sum"))
def test_a_model_is_composed_by_lanes_to_the_cpus_bytes_in_chunks(lanes, tmp_path, monkeypatch, how):
    monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", 128)
    monkeypatch.setattr(gpu_engine, "pick_launch", lambda device: CudaLaunch)
    world = PatchedBase(tmp_path)
    expected = world.compose("cpu", file_digests=True, **how)

    @contextlib.contextmanager
    def opened(device, device_memory, phases, recipe, base_size):
        engine = GpuEngine(DEVICE, 2**26, phases, Rule.of(recipe), recipe.base, base_size)
        engine.step = Step(2000, 256)
        yield engine

    monkeypatch.setattr(compose_module, "open_engine", opened)
    found = world.compose("gpu", file_digests=True, **how)
    assert (found.weights_digest, found.files) == (expected.weights_digest, expected.files)
    assert lanes.launched["count_values"] == sum(count for name, count in lanes.launched.items() if "compose" in name)


def test_cuda_launches_where_it_can_and_triton_elsewhere(monkeypatch):
    asked = []
    monkeypatch.setattr(launches.launching, "can_launch", lambda device: asked.append(device) or len(asked) == 1)
    assert [pick_launch(DEVICE), pick_launch(DEVICE)] == [CudaLaunch, TritonLaunch]
    assert asked == [DEVICE, DEVICE]


@pytest.mark.parametrize(
    ("cuda", "nvrtc", "expected"), [("13.0", True, True), ("13.0", False, False), (None, True, False)]
)
def test_kernels_are_launched_on_an_nvidia_gpu_with_a_compiler(monkeypatch, cuda, nvrtc, expected):
    monkeypatch.setattr(launching.torch.version, "cuda", cuda)
    monkeypatch.setattr(launching, "has_nvrtc", lambda: nvrtc)
    monkeypatch.setattr(launching, "_can_compile_for", lambda index: index == 2)
    assert launching.can_launch(torch.device("cuda", 2)) is expected
    assert not launching.can_launch(torch.device("cpu"))


@pytest.mark.skipif(not launching.has_nvrtc(), reason="cuda-core or NVRTC is not installed")
@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), True), ((8, 0), True), ((7, 5), False), ((99, 9), False)]
)
def test_kernels_are_launched_on_gpus_that_they_are_written_for_and_nvrtc_knows(monkeypatch, capability, expected):
    asked = []
    monkeypatch.setattr(launching.torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: asked.append(index) or capability)
    launching._can_compile_for.cache_clear()
    try:
        assert [launching.can_launch(torch.device("cuda", index)) for index in (5, 5, None)] == 3 * [expected]
        assert set(asked) == {5}
        assert len(asked) <= 2  # what is known of a GPU is kept
    finally:
        launching._can_compile_for.cache_clear()


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU, and which streams are to be waited for before its memory is another's."""

    device = property(lambda self: torch.device("cuda", 3))
    is_cuda = property(lambda self: True)
    recorded = ()

    def record_stream(self, stream):
        """Note the stream."""
        self.recorded = (*self.recorded, stream)


def test_a_launch_is_on_torchs_stream_of_the_tensors_gpu_and_gets_addresses_and_numbers(monkeypatch):
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    found, entered = [], []

    @contextlib.contextmanager
    def entering(device):
        entered.append(device.index)
        yield
        entered.append("left")

    made = SimpleNamespace(set_current=lambda: entered.append("current"))
    monkeypatch.setattr(core, "Device", lambda index: made if index == 3 else None)
    monkeypatch.setattr(core, "launch", lambda *given: found.append(given) or entered.append("launched"))
    monkeypatch.setattr(torch.cuda, "device", entering)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=70 + device.index))
    monkeypatch.setattr(launching, "_load", lambda *asked: asked)
    tensor = torch.zeros(4).as_subclass(OnGpu)
    launching.launch("a.cu", "b<1>", 5, 64, 7, tensor, 2**40)
    (stream, config, kernel, *arguments) = found[0]
    assert isinstance(stream, core.Stream)  # another's stream is taken with a warning
    assert int(stream.handle) == 73
    assert (kernel, arguments) == (("a.cu", "b<1>", 3), [7, tensor.data_ptr(), 2**40])
    assert (config.grid, config.block) == ((5, 1, 1), (64, 1, 1))
    assert entered == [3, "current", "launched", "left"]


class Allocated(TorchDispatchMode):
    """Keeps every tensor that is made."""

    def __init__(self):
        super().__init__()
        self.made = {}

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        """Call a function of torch's, and keep what it returns."""
        found = function(*arguments, **(options or {}))
        if isinstance(found, torch.Tensor):
            self.made[found.untyped_storage().data_ptr()] = found
        return found


@pytest.mark.parametrize("method", list(BLOCKS))
def test_a_launch_takes_no_more_memory_than_it_says(monkeypatch, method):
    monkeypatch.setattr(launching, "launch", lambda *asked: None)
    size, patches = 50_000, 3
    chunk = SimpleNamespace(table=np.zeros((patches, 5), np.int64), scales=np.ones(patches), size=size, first=0)
    chunk.spec = SimpleNamespace(dtype="BF16")
    launch = CudaLaunch(chunk, SimpleNamespace(used=64), Rule(method))
    there, base, lost = torch.zeros(64, dtype=torch.uint8), torch.zeros(2 * size, dtype=torch.uint8), torch.zeros(1)
    launch.upload(torch.device("cpu"))
    with Allocated() as allocated:
        launch.compose(there, base, base, lost)
    given = {part.untyped_storage().data_ptr() for part in (there, base, lost, launch.table, launch.scales)}
    parts = [part.untyped_storage().nbytes() for at, part in allocated.made.items() if at not in given]
    assert len(parts) == 3  # counts, their sums, and those after a zero
    assert sum(parts) + launch.table.nbytes + launch.scales.nbytes <= launch.extra


class Opened:
    """A base and its patches, open, and what a recipe does to each tensor."""

    def __init__(self, stack, world, how):
        weights, where = how.get("weights", ("1", "-0.5", "2")), how.get("where", ((), (), ()))
        items = [Item(*item) for item in zip(world.paths, weights, where, strict=True)]
        self.base = stack.enter_context(open_checkpoint(world.folder / "base"))
        self.patches = {sha256: stack.enter_context(open_patch(path)) for sha256, path in world.paths.items()}
        recipe = make_recipe(world.digest, "0.3", items, how.get("method", "sum"))
        self.rule, self.touching = Rule.of(recipe), find_touching(self.base, self.patches, recipe)
        self.names = {id(patch): sha256 for sha256, patch in self.patches.items()}

    def compose(self, held, name, base):
        """Compose a tensor of held patches; return its bytes and how many are lost."""
        touching = [(held.take(self.names[id(patch)], patch, name), by) for patch, by in self.touching[name]]
        out = torch.full_like(base, 0xA5)
        lost = compose_held(base, self.base.tensors[name].dtype, touching, self.rule, out)
        return out, int(lost)


@pytest.mark.parametrize("room", [2**20, 3000, 0])
@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.get("method", "sum"))
def test_tensors_are_composed_of_held_patches_to_the_files_bytes(lanes, tmp_path, how, room):
    world = PatchedBase(tmp_path)
    world.compose("out", **how)
    expected = read_all(tmp_path / "out/model.safetensors")
    held = HeldPatches(DEVICE, room)
    with contextlib.ExitStack() as stack:
        opened = Opened(stack, world, how)
        for _ in range(2):
            for name in opened.touching:
                base = world.base[name].contiguous().reshape(-1).view(torch.uint8).clone().to(DEVICE)
                out, lost = opened.compose(held, name, base)
                assert torch.equal(out.cpu(), expected[name].contiguous().reshape(-1).view(torch.uint8))
                assert lost == 0
                assert held.used <= room
    assert (held.used > 0) == (room > 0)


def test_a_held_patch_is_read_once_and_what_was_used_longest_ago_leaves_first(lanes, tmp_path):
    world = PatchedBase(tmp_path)
    with contextlib.ExitStack() as stack:
        opened = Opened(stack, world, {})
        one, two, three = opened.patches.items()
        size = sum(read_held(patch, "float32", DEVICE).size for _, patch in (one, two))
        held = HeldPatches(DEVICE, size)
        first = held.take(*one, "float32")
        held.take(*two, "float32")
        assert held.take(*one, "float32") is first
        assert held.used == size
        held.take(*three, "float32")  # in place of the second
        assert held.take(*one, "float32") is first
        held.drop()
        assert held.used == 0
        assert held.take(*one, "float32") is not first


def test_all_counts_of_a_held_patch_are_there_before_another_stream_can_want_them(lanes, tmp_path):
    world = PatchedBase(tmp_path)
    with contextlib.ExitStack() as stack:
        opened = Opened(stack, world, {})
        held = read_held(next(iter(opened.patches.values())), "float32", DEVICE)
        assert set(held.starts) == set(BLOCKS.values())
        counted = lanes.launched["count_values"]
        for method in BLOCKS:
            base = world.base["float32"].reshape(-1).view(torch.uint8).clone().to(DEVICE)
            compose_held(base, "F32", [(held, 1.0)], Rule(method), torch.empty_like(base))
        assert lanes.launched["count_values"] == counted


@pytest.mark.skipif(DEVICE.type == "cuda", reason="what stands in for a GPU's tensors is on the CPU")
def test_memory_of_a_held_patch_is_kept_until_the_stream_that_reads_it_is_done(lanes, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: ("stream", device.index))
    world = PatchedBase(tmp_path)
    with contextlib.ExitStack() as stack:
        opened = Opened(stack, world, {})
        held = read_held(next(iter(opened.patches.values())), "float32", DEVICE)
    starts = {block: counts.as_subclass(OnGpu) for block, counts in held.starts.items()}
    there = replace(held, arena=held.arena.as_subclass(OnGpu), row=held.row.as_subclass(OnGpu), starts=starts)
    there.keep()
    assert [part.recorded for part in (there.arena, there.row, *starts.values())] == 5 * [(("stream", 3),)]
    kept = []
    monkeypatch.setattr(HeldTensor, "keep", lambda self: kept.append(self))
    base = world.base["float32"].reshape(-1).view(torch.uint8).clone()
    compose_held(base, "F32", [(held, 1.0)], Rule(), torch.empty_like(base))
    assert kept == [held]


def test_without_patches_a_tensor_is_the_base():
    base = torch.arange(64, dtype=torch.uint8)
    out = torch.empty_like(base)
    assert int(compose_held(base, "F32", [], Rule(), out)) == 0
    assert torch.equal(out, base)


@pytest.mark.parametrize("kind", ["bitmask", "indices"])
def test_a_patch_that_contradicts_itself_is_not_held(lanes, tmp_path, kind):
    world = PatchedBase(tmp_path)
    for path in world.paths.values():
        meta, entries = take_apart(path.read_bytes())
        at = next((at for at, entry in enumerate(entries) if entry[0].endswith(kind) and len(entry[3]) > 16), None)
        if at is None:
            continue
        name, dtype, shape, data = entries[at]
        spoiled = bytearray(data)
        if kind == "bitmask":
            spoiled[0] ^= 1
        else:
            spoiled[4:8] = spoiled[0:4]
        entries[at] = name, dtype, shape, bytes(spoiled)
        path.write_bytes(build(meta, entries))
        with open_patch(path) as patch, pytest.raises(InvalidPatch, match=r"differ in number|strictly increase"):
            read_held(patch, name.removesuffix(f".{kind}"), DEVICE)
        return
    pytest.fail(f"no patch has {kind}")


def test_a_bit_after_the_last_of_a_mask_is_not_held(lanes, tmp_path):
    world = PatchedBase(tmp_path)
    for path in world.paths.values():
        meta, entries = take_apart(path.read_bytes())
        for at, (entry, dtype, shape, data) in enumerate(entries):
            name = entry.removesuffix(".bitmask")
            if name != entry and world.base[name].numel() % 8:
                entries[at] = entry, dtype, shape, data[:-1] + bytes([data[-1] | 0x80])
                path.write_bytes(build(meta, entries))
                with open_patch(path) as patch, pytest.raises(InvalidPatch, match="a padding bit after its"):
                    read_held(patch, name, DEVICE)
                return
    pytest.fail("no patch has a bitmask with padding")


def test_indices_beyond_the_tensor_are_not_held(lanes, tmp_path):
    world = PatchedBase(tmp_path)
    for path in world.paths.values():
        meta, entries = take_apart(path.read_bytes())
        for at, (name, dtype, shape, data) in enumerate(entries):
            if name.endswith(".indices"):
                last = np.frombuffer(data, "<i4").copy()
                last[-1] = 2**30
                entries[at] = name, dtype, shape, last.tobytes()
                path.write_bytes(build(meta, entries))
                with open_patch(path) as patch, pytest.raises(InvalidPatch, match="strictly increase"):
                    read_held(patch, name.removesuffix(".indices"), DEVICE)
                return
    pytest.fail("no patch has indices")
