"""What measures a GPU, on a machine without one: it says so, and its parts do what they measure."""

import argparse
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.gpu import files, kernels, live, works
from benchmarks.plot import draw
from benchmarks.science.cases import Case, PatchFile
from registry.breadcrumbs.composing import compose as compose_module
from registry.breadcrumbs.composing import held
from registry.breadcrumbs.composing.gpu import engine as gpu_engine
from registry.breadcrumbs.composing.gpu.launches import CudaLaunch
from registry.breadcrumbs.composing.gpu.residents import Residents
from registry.breadcrumbs.kernels import compose as cpu
from registry.breadcrumbs.kernels import constants
from registry.breadcrumbs.kernels.cuda.conflicts import measure_chunk
from registry.breadcrumbs.kernels.cuda.counting import count_before
from tests.support.host_lanes import DEVICE
from tests.support.live_makers import make_llama, open_family
from tests.support.science_makers import PatchedBase


def asked(module, *options):
    """Return a command's arguments."""
    parser = argparse.ArgumentParser()
    module.add_options(parser)
    return parser.parse_args(options)


def use_lanes(monkeypatch):
    """Have compositions on a GPU run on the lanes that the CPU stands in for."""
    monkeypatch.setattr(gpu_engine, "pick_launch", lambda device: CudaLaunch)
    monkeypatch.setattr(gpu_engine, "find_gpu", lambda memory: (DEVICE, memory))
    monkeypatch.setattr(gpu_engine, "RESIDENTS", Residents())
    for module in (compose_module, held):
        monkeypatch.setattr(module, "pick_device", lambda device: device)


def patch_files(world):
    return [PatchFile(path, sha256, world.digest, path.stat().st_size, 1) for sha256, path in world.paths.items()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("module", [files, kernels, live])
def test_without_a_gpu_nothing_is_measured(module, capsys):
    assert module.run(asked(module)) is None
    assert "no CUDA device" in capsys.readouterr().out


def test_without_nvrtc_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels.launching, "can_launch", lambda device: False)
    assert kernels.run(asked(kernels)) is None
    assert "breadcrumb-registry[cuda]" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["sum", "ties"])
def test_every_kernel_is_measured_against_a_copy(lanes, monkeypatch, tmp_path, method):
    for name, value in (("WARM", 0), ("REPEATED", 2)):
        monkeypatch.setattr(works, name, value)
    options = ["--weights", "4096", "--counts", "1", "8", "--densities", "0.14", "--rounds", "1", "--method", method]
    result = kernels.measure(asked(kernels, *options), DEVICE, by_triton=False)
    assert [row[0] for row in result.tables[0].rows] == [
        *(f"{count} patches of 0.14: {what}" for count in (1, 8) for what in ("copy", "CUDA", "counting")),
        *(f"kept 0.14: {what}" for what in ("copy", "selection")),
        *(f"8 patches, all pairs: {what}" for what in ("copy", "conflicts", "host")),
    ]
    assert [bar.verdict for bar in result.bars] == 3 * ["other setup"]  # it is not a chunk of the size that is judged
    kind = 0 if method == "sum" else 3
    assert lanes.launched[f"compose<0, {constants.METHODS[method]}, {kind}>"] == 4
    draw(result, tmp_path / "plot.svg")


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_what_is_measured_composes_to_the_cpus_bits(lanes, dtype):
    made = works.make_chunk(4096, 3, 0.3, dtype, "0.3", 5, DEVICE)
    assert torch.equal(made.starts, count_before(made.arena, made.table, made.size, 1024))
    for call in works.composing([made]).calls:
        call()
    arena = np.concatenate([made.arena.cpu().numpy(), made.base.cpu().numpy(), np.zeros(constants.PAD, np.uint8)])
    out = np.empty(made.base.nbytes + constants.PAD, np.uint8)
    code, table, scales = constants.CODES[made.dtype], made.table.cpu().numpy(), made.scales.cpu().numpy()[:-1]
    cpu.compose_chunk(arena, made.arena.nbytes, code, made.size, 0, table, scales, out, constants.SUM, 1.0)
    assert made.out.cpu().numpy().tobytes() == out[: -constants.PAD].tobytes()
    values = made.base.nbytes // made.size * int(made.table[:, 4].sum())
    assert works.composing([made]).moved == 2 * made.base.nbytes + 3 * 512 + values + 3 * 5 * 4


def test_the_gpus_clock_starts_when_the_host_has_launched(monkeypatch):
    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            done.append("record")

        def synchronize(self):
            done.append("wait")

        def elapsed_time(self, end):
            return 4.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: done.append("sleep"), raising=False)
    work = works.Work([lambda: done.append("call")], 1)
    assert works.measure_work(work, torch.device("cuda")).seconds == 0.004
    assert done[:5] == ["sleep", "record", "call", "record", "wait"]


def test_the_host_measures_the_conflicts_that_the_device_does(lanes, monkeypatch):
    monkeypatch.setattr(kernels, "PART", 1024)
    made = works.make_chunk(5120, 3, 0.3, "bf16", "0.3", 5, DEVICE)
    parts = kernels.Host(made).measure()
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2]], device=DEVICE)
    own, census, sums = (part.cpu() for part in measure_chunk(made.arena, made.table, made.size, pairs))
    assert len(parts) == 5
    assert sum(part.census for part in parts).tolist() == census.tolist()
    assert sum(part.counts for part in parts).tolist() == sums[:, :2].tolist()
    assert np.allclose(sum(part.own for part in parts), own.numpy(), rtol=1e-12)


def test_a_resident_model_is_composed_whole(lanes, tmp_path, monkeypatch):
    for name, value in (("WARM", 0), ("REPEATED", 1)):
        monkeypatch.setattr(works, name, value)
    use_lanes(monkeypatch)
    world = PatchedBase(tmp_path)
    found = files.measure_resident(SimpleNamespace(alpha="0.3"), tmp_path / "base", patch_files(world), 1, DEVICE)
    assert found["resident"].moved > 0
    assert sum(count for name, count in lanes.launched.items() if name.startswith("compose")) >= 4


def test_a_live_model_is_measured_and_compared_with_the_cpus_bits(lanes, tmp_path, monkeypatch):
    for name, value in (("WARM", 0), ("REPEATED", 1)):
        monkeypatch.setattr(works, name, value)
    use_lanes(monkeypatch)
    with open_family(tmp_path, make_llama(tmp_path / "base"), (1, 2)) as family:
        files_of = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
        pairs = zip(family.patches, files_of, strict=True)
        patches = [PatchFile(path, sha256, family.digest, path.stat().st_size, 1) for sha256, path in pairs]
        result = live.measure(Case("1M"), family.folder, patches, 1, 2**26, DEVICE)
    assert [row[0] for row in result.tables[0].rows] == ["first switch", "copy", "switch"]
    assert result.bars[1].reached
