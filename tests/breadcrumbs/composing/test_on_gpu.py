"""Composing on a GPU by the CUDA kernels, on lanes that the CPU stands in for: files, and patches that stay there."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from registry.breadcrumbs.composing import compose as compose_module
from registry.breadcrumbs.composing import staging
from registry.breadcrumbs.composing.engines import Rule
from registry.breadcrumbs.composing.gpu import engine as gpu_engine
from registry.breadcrumbs.composing.gpu import launches
from registry.breadcrumbs.composing.gpu.direct import DirectReader
from registry.breadcrumbs.composing.gpu.engine import GpuEngine
from registry.breadcrumbs.composing.gpu.held import Wholly, compose_wholly, size_of
from registry.breadcrumbs.composing.gpu.launches import CudaLaunch, HeldLaunch, TritonLaunch, pick_launch
from registry.breadcrumbs.composing.gpu.residents import Resident, ResidentPatch, Residents
from registry.breadcrumbs.composing.staging import Step
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.kernels.cuda import launching
from registry.breadcrumbs.kernels.cuda.compose import BLOCKS
from registry.errors import NotFinite, Unavailable
from tests.support import science_makers
from tests.support.host_lanes import DEVICE
from tests.support.kvikio_stand_in import KvikIo
from tests.support.science_makers import PatchedBase, base_tensors

VOTING = {"weights": ("1", "0.5", "2"), "where": ((), (("*loat*", "0.25"), ("scalar", "0")), ())}
WAYS = [{}, {"method": "ties", **VOTING}, {"method": "mean", **VOTING}]


@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.get("method", "sum"))
def test_a_model_is_composed_by_lanes_to_the_cpus_bytes_in_chunks(lanes, tmp_path, monkeypatch, how):
    monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", 128)
    monkeypatch.setattr(gpu_engine, "pick_launch", lambda device: CudaLaunch)
    world = PatchedBase(tmp_path)
    expected = world.compose("cpu", file_digests=True, **how)

    @contextlib.contextmanager
    def opened(device, device_memory, phases, recipe, base_size, patches):
        engine = GpuEngine(DEVICE, 2**26, phases, Rule.of(recipe), recipe.base, base_size, patches)
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
    monkeypatch.setattr(launching, "_runs_on", lambda index: index == 2)
    assert launching.can_launch(torch.device("cuda", 2)) is expected
    assert not launching.can_launch(torch.device("cpu"))


def fail(*asked):
    raise RuntimeError("CUDA_ERROR_NO_BINARY_FOR_GPU")


def set_no_bit(*asked):
    """Do nothing, as a kernel that the driver took and cannot run."""


@pytest.mark.parametrize(
    ("capability", "launch", "expected"),
    [((9, 0), None, True), ((7, 5), None, False), ((9, 0), fail, False), ((9, 0), set_no_bit, False)],
)
def test_kernels_are_launched_where_one_has_done_its_work(lanes, monkeypatch, capability, launch, expected):
    """As not on a GPU before Ampere, and not where the driver is older than the compiler."""
    monkeypatch.setattr(launching, "has_nvrtc", lambda: True)
    monkeypatch.setattr(launching.torch.version, "cuda", "13.0")
    monkeypatch.setattr(launching.torch, "device", lambda *asked: DEVICE)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    asked = []
    run = launch or launching.launch
    monkeypatch.setattr(launching, "launch", lambda *given: asked.append(given) or run(*given))
    launching._runs_on.cache_clear()
    try:
        on_gpu = SimpleNamespace(type="cuda", index=5)
        assert [launching.can_launch(on_gpu), launching.can_launch(on_gpu)] == [expected, expected]
        assert len(asked) == (capability > (8, 0))  # what is known of a GPU is kept
    finally:
        launching._runs_on.cache_clear()


def test_a_gpu_that_the_compiler_does_not_know_gets_code_for_the_newest_before():
    known = [75, 80, 90, 100, 120]
    archs = [launching.arch_for(capability, known) for capability in ((9, 0), (12, 0), (13, 1), (8, 9))]
    assert archs == ["sm_90", "sm_120", "compute_120", "compute_80"]
    with pytest.raises(ValueError, match="empty"):
        launching.arch_for((7, 0), known)


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
    sent = [torch.from_numpy(part) for part in launch.parts]
    with Allocated() as allocated:
        launch.compose(there, base, base, lost, sent)
    given = {part.untyped_storage().data_ptr() for part in (there, base, lost, *sent)}
    parts = [part.untyped_storage().nbytes() for at, part in allocated.made.items() if at not in given]
    assert len(parts) == 3  # counts, their sums, and those after a zero
    assert sum(parts) <= launch.extra


@pytest.fixture
def keeping(lanes, monkeypatch):
    """Let compose() use a GPU by CUDA's kernels, in short chunks, and return what it keeps there."""
    kept = Residents()
    monkeypatch.setattr(gpu_engine, "RESIDENTS", kept)
    monkeypatch.setattr(gpu_engine, "pick_launch", lambda device: CudaLaunch)
    monkeypatch.setattr(gpu_engine, "find_gpu", lambda memory: (DEVICE, memory or 2**24))
    monkeypatch.setattr(compose_module, "pick_device", lambda device: device)
    monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", 128)
    monkeypatch.setattr(GpuEngine, "ARENA_BYTES", 2**16)
    monkeypatch.setattr(GpuEngine, "OUT_BYTES", 2**14)
    large = {
        **{name: torch.randn(70, 61, dtype=torch.float64).to(tensor) for name, tensor in base_tensors().items()},
        **{name: tensor for name, tensor in base_tensors().items() if tensor.numel() < 300},
    }
    monkeypatch.setattr(science_makers, "base_tensors", lambda: large)
    return kept


def spoil(world, *, base):
    """Overwrite the data of the patches on disk, and of the base where a patch touches it."""
    for path in world.paths.values():
        content = path.read_bytes()
        begin = 8 + int.from_bytes(content[:8], "little")
        path.write_bytes(content[:begin] + bytes(len(content) - begin))
    if base:
        file = world.folder / "base/model.safetensors"
        with open_checkpoint(file) as checkpoint:
            entry = checkpoint.headers[file.name].entries["float64"]
        content = bytearray(file.read_bytes())
        content[entry.start : entry.stop] = bytes(entry.stop - entry.start)
        file.write_bytes(content)


@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.get("method", "sum"))
def test_what_stays_on_the_gpu_is_composed_to_the_same_bytes_and_not_read_again(lanes, keeping, tmp_path, how):
    world = PatchedBase(tmp_path)
    later = {**how, "alpha": "-0.7", "file_digests": True}
    expected = world.compose("cpu", **later)
    assert world.compose("first", device="cuda", **how).weights_digest == world.compose("slow", **how).weights_digest
    spoil(world, base=True)
    counted = lanes.launched["count_values"]
    found = world.compose("again", device="cuda", **later)
    assert (found.weights_digest, found.files) == (expected.weights_digest, expected.files)
    assert lanes.launched["count_values"] == counted  # nothing is counted again


def test_another_method_takes_what_stays(keeping, tmp_path):
    world = PatchedBase(tmp_path)
    expected = world.compose("cpu", method="ties", weights=("1", "0.5", "2")).weights_digest
    world.compose("first", device="cuda")
    spoil(world, base=True)
    assert world.compose("again", device="cuda", method="ties", weights=("1", "0.5", "2")).weights_digest == expected


def test_a_patch_that_does_not_fit_is_read_each_time(keeping, tmp_path):
    world = PatchedBase(tmp_path)
    with contextlib.ExitStack() as stack:
        sizes = [size_of(stack.enter_context(open_patch(path))) for path in world.paths.values()]
        base = stack.enter_context(open_checkpoint(tmp_path / "base")).size
    works = 3 * (2**16 + 2**14)
    expected = world.compose("cpu").weights_digest
    memory = works + base + sizes[0] + min(sizes[1:]) - 1
    for out in ("first", "again"):
        assert world.compose(out, device="cuda", device_memory=memory).weights_digest == expected
    assert [type(kept) for kept, _ in keeping._kept.values()] == [Resident, ResidentPatch]


def test_what_stays_is_dropped_after_an_error_but_not_for_a_recipe_that_overflows(keeping, tmp_path, monkeypatch):
    world = PatchedBase(tmp_path)
    with pytest.raises(NotFinite):
        world.compose("too large", device="cuda", alpha="9" * 19)
    expected = world.compose("cpu").weights_digest
    assert world.compose("first", device="cuda").weights_digest == expected
    with pytest.raises(NotFinite):
        world.compose("again too large", device="cuda", alpha="9" * 19)
    assert len(keeping._kept) == 4
    spoil(world, base=True)
    assert world.compose("again", device="cuda").weights_digest == expected
    monkeypatch.setattr(HeldLaunch, "compose", lambda *asked: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        world.compose("broken", device="cuda")
    assert not keeping._kept


def test_when_the_gpu_has_no_memory_left_for_a_chunk_the_cpu_composes_it(keeping, tmp_path, monkeypatch):
    world = PatchedBase(tmp_path)
    expected = world.compose("cpu").weights_digest

    def launch(self, *asked):
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patching:
        patching.setattr(CudaLaunch, "compose", launch)
        assert world.compose("first", device="cuda").weights_digest == expected
    assert world.compose("again", device="cuda").weights_digest == expected  # of what was not copied, nothing stays


def test_a_gpu_without_memory_for_the_work_itself_is_told(keeping, tmp_path, monkeypatch):
    world = PatchedBase(tmp_path)

    def make(*asked):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(Residents, "use", make)
    with pytest.raises(Unavailable, match="has no memory left"):
        world.compose("first", device="cuda")


def test_without_patches_a_tensor_is_the_base():
    base = torch.arange(64, dtype=torch.uint8)
    out = torch.empty_like(base)
    assert compose_wholly({"a": Wholly(base, "F32", [])}, Rule(), {"a": out}) == {"a": 0}
    assert torch.equal(out, base)


@pytest.mark.parametrize("failing", [False, True])
def test_values_are_read_directly_and_through_memory_where_that_fails(keeping, tmp_path, monkeypatch, failing):
    kvikio = KvikIo(failing)
    monkeypatch.setattr(gpu_engine, "open_direct_reader", lambda device: DirectReader(kvikio))
    world = PatchedBase(tmp_path)
    expected = world.compose("cpu").weights_digest
    for out in ("first", "again"):
        assert world.compose(out, device="cuda").weights_digest == expected
    assert {read.size for read in kvikio.reads}
    assert all(file.opened is None for file in kvikio.files)
    assert len(kvikio.files) <= 3  # each patch is opened once


def test_compositions_at_the_same_time_keep_nothing_by_halves(keeping, tmp_path):
    world = PatchedBase(tmp_path)
    hows = [{}, {"alpha": "-0.7"}, {"method": "ties", "weights": ("1", "0.5", "2")}]
    expected = [world.compose(f"cpu{at}", **how).weights_digest for at, how in enumerate(hows)]
    for turn in range(2):
        with ThreadPoolExecutor(3) as pool:
            begun = [pool.submit(world.compose, f"{turn}-{at}", device="cuda", **how) for at, how in enumerate(hows)]
            assert [one.result().weights_digest for one in begun] == expected
    spoil(world, base=True)
    assert [world.compose(f"2-{at}", device="cuda", **how).weights_digest for at, how in enumerate(hows)] == expected


def test_of_a_tensor_with_more_values_than_an_int32_counts_no_patch_stays(keeping, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_engine, "MOST", 4000)
    world = PatchedBase(tmp_path)
    expected = world.compose("cpu").weights_digest
    for out in ("first", "again"):
        assert world.compose(out, device="cuda").weights_digest == expected
    patches = [kept for kept, _ in keeping._kept.values() if isinstance(kept, ResidentPatch)]
    assert [sorted(patch.tensors) for patch in patches] == 3 * [["scalar"]]
