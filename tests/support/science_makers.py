"""Small real checkpoints and patches, and the specification written down slowly, once more."""

import functools
import json
import math
import operator
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.composing.staging import Arena
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.arrays import read_raw
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import Item, make_recipe
from registry.breadcrumbs.kernels import compose as kernels
from registry.breadcrumbs.kernels import constants

Tensors = Mapping[str, torch.Tensor]


def write_model(folder: Path, tensors: Tensors, shards: int = 1, config: dict | None = None) -> Path:
    """Write a checkpoint folder in the Hugging Face layout."""
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
        return folder
    weight_map = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensors[key] for at, key in enumerate(tensors) if at % shards == number}
        save_file(part, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def read_all(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file with the library, an independent reader."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def raw(tensor: torch.Tensor) -> bytes:
    """Return a tensor's little-endian bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def slow_mask(delta: list[float], row: int | None, drop_bottom: str, drop_top: str) -> list[bool]:
    """Section 2 of the specification by sorting: order each group, cut both ends, leave out zeros."""
    size = len(delta) if row is None else row
    mask = [False] * len(delta)
    for start in range(0, len(delta), max(size, 1)):
        order = sorted(range(start, start + size), key=lambda i: (-abs(delta[i]), i))
        n_top = math.floor(Fraction(drop_top) * size)
        n_bottom = math.floor(Fraction(drop_bottom) * size)
        for i in order[n_top : size - n_bottom]:
            mask[i] = delta[i] != 0
    return mask


def slow_bf16(value: float) -> float:
    """Round float32 to bfloat16, nearest even, on the bits."""
    bits = int(np.float32(value).view(np.uint32))
    bits = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16) & 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))


def slow_round(value: float, dtype: torch.dtype) -> float:
    """Round float64 to float32 and then to the dtype; float64 stays."""
    if dtype == torch.float64:
        return value
    single = float(np.float32(value))
    if dtype == torch.float16:
        return float(np.float16(np.float32(single)))
    return slow_bf16(single) if dtype == torch.bfloat16 else single


def decode(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Read a patch with the safetensors library and plain Python: (flat index, value) pairs by tensor."""
    entries = read_all(path)
    found = {}
    for name in entries:
        if name.endswith(".values"):
            tensor = name.removesuffix(".values")
            if f"{tensor}.bitmask" in entries:
                packed = entries[f"{tensor}.bitmask"].tolist()
                places = [i for i in range(8 * len(packed)) if packed[i // 8] >> i % 8 & 1]
            else:
                places = entries[f"{tensor}.indices"].tolist()
            found[tensor] = list(zip(places, entries[name].double().tolist(), strict=True))
    return found


CODES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}


def read_tensor(weights, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """Read elements of a checkpoint's tensor, or of an adapter's, by our own code."""
    spec = weights.tensors[name]
    stop = spec.numel if stop is None else stop
    kinds = {code: kind for kind, code in CODES.items()} | {"I64": torch.int64, "BOOL": torch.bool}
    tensor = torch.empty(stop - start, dtype=kinds[spec.dtype])
    if len(tensor):
        tensor.view(torch.uint8)[:] = torch.from_numpy(read_raw(weights, name, start, stop))
    return tensor


class Touch(NamedTuple):
    """What one patch does to a block: distinct places, float values, and the scale."""

    places: torch.Tensor
    values: torch.Tensor
    scale: float


def slow_combine(base: float, votes: Sequence[tuple[float, float]], method: str, alpha: float) -> float:
    """Section 4 of the specification for one element: its base, and (scale, value) of the patches that touch it."""
    if method == "sum":
        for scale, value in votes:
            base = base + scale * value
        return base
    if method == "mean":
        total = weight = 0.0
        for scale, value in votes:
            total, weight = total + scale * value, weight + scale
        return base + alpha * float(np.float32(total / weight)) if votes else base
    plus = [(scale * value, scale) for scale, value in votes if scale * value > 0]
    minus = [(-scale * value, scale) for scale, value in votes if scale * value < 0]
    if not plus and not minus:
        return base
    masses = [functools.reduce(operator.add, (mass for mass, _ in side), 0.0) for side in (plus, minus)]
    weights = [functools.reduce(operator.add, (weight for _, weight in side), 0.0) for side in (plus, minus)]
    elected = masses[0] / weights[0] if masses[0] >= masses[1] else -(masses[1] / weights[1])
    return base + alpha * float(np.float32(elected))


def compose_block(
    base: torch.Tensor, touches: Sequence[Touch], indices: bool = False, method: str = "sum", alpha: float = 1.0
) -> tuple[torch.Tensor, int]:
    """Compose a block by the CPU kernel, masks given as bits or as indices; return it and how many are lost."""
    arena, rows = Arena(64), []
    base_at = put(arena, raw(base))
    for touch in touches:
        bits = np.zeros(-(-base.numel() // 8) * 8, np.bool_)
        bits[touch.places.numpy()] = True
        mask = raw(touch.places.int()) if indices else np.packbits(bits, bitorder="little").tobytes()
        mask_at, values_at = put(arena, mask + bytes(8)), put(arena, raw(touch.values))
        code = constants.CODES[CODES[touch.values.dtype]]
        rows.append((mask_at, values_at, code, 4 if indices else 0, touch.places.numel()))
    out = np.empty(base.nbytes + constants.PAD, np.uint8)
    table, scales = np.array(rows, np.int64).reshape(-1, 5), np.array([touch.scale for touch in touches], np.float64)
    code = constants.CODES[CODES[base.dtype]]
    ask = arena.bytes, base_at, code, base.numel(), 0, table, scales, out
    lost = kernels.compose_chunk(*ask, constants.METHODS[method], alpha)
    return torch.from_numpy(out[: base.nbytes].copy()).view(base.dtype), lost


def put(arena: Arena, content: bytes) -> int:
    """Put bytes into an arena and return where they are."""
    at = arena.place(len(content))
    arena.bytes[at : at + len(content)] = np.frombuffer(content, np.uint8)
    return at


def build(metadata: object, entries: list[tuple[str, str, list[int], bytes]]) -> bytes:
    """Build a safetensors file from parts that need not be sound."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata is not None else {}
    at = 0
    for name, dtype, shape, data in entries:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    return frame(json.dumps(header, separators=(",", ":")).encode(), b"".join(part[3] for part in entries))


def frame(text: bytes, data: bytes) -> bytes:
    """Put the length before a header and the data after it."""
    return len(text).to_bytes(8, "little") + text + data


def take_apart(content: bytes) -> tuple[dict[str, str], list[tuple[str, str, list[int], bytes]]]:
    """Undo `build`, for a sound file."""
    size = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:size])
    metadata = header.pop("__metadata__", {})
    entries = []
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        entries.append((name, entry["dtype"], entry["shape"], content[size + start : size + stop]))
    return metadata, entries


DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def base_tensors():
    torch.manual_seed(3)
    return {
        **{str(dtype).removeprefix("torch."): torch.randn(30, 11, dtype=torch.float64).to(dtype) for dtype in DTYPES},
        "scalar": torch.tensor(-0.0),
        "untouched": torch.tensor([math.nan, math.inf, -0.0, 1.0]),
        "ids": torch.arange(3),
        "empty": torch.zeros(0, 2),
    }


class PatchedBase:
    """A base and three patches for it, on disk."""

    def __init__(self, folder, shards=1):
        self.folder, self.base = folder, base_tensors()
        write_model(folder / "base", self.base, shards)
        self.paths = {}
        with open_checkpoint(folder / "base") as b:
            self.digest = digest_checkpoint(b)
            for seed, granularity in enumerate(["tensor", "row", "tensor"]):
                torch.manual_seed(seed)
                tuned = {n: t + torch.randn_like(t) if t.is_floating_point() else t for n, t in self.base.items()}
                write_model(folder / f"tuned{seed}", tuned, 1)
                params = MaskParams("0.97" if seed == 2 else "0.5", "0.007", granularity, ["auto", "F32", "BF16"][seed])
                with open_checkpoint(folder / f"tuned{seed}") as t:
                    info = diff(b, t, folder / f"patch{seed}", params, exclude=["untouched"])
                self.paths[info.sha256] = folder / f"patch{seed}"

    def compose(
        self, out, alpha="0.3", weights=("1", "-0.5", "2"), device="cpu", method="sum", where=((), (), ()), **options
    ):
        items = [Item(*item) for item in zip(self.paths, weights, where, strict=False)]
        recipe = make_recipe(self.digest, alpha, items, method)
        (self.folder / out).mkdir()
        patches = {item.sha256: open_patch(self.paths[item.sha256]) for item in items}
        try:
            with open_checkpoint(self.folder / "base") as b:
                return compose(b, patches, recipe, self.folder / out, device, **options)
        finally:
            for patch in patches.values():
                patch.close()
