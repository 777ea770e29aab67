"""Regression: pieces of scikit-learn's two photographs, damaged in thirteen ways, to be restored.

A piece is 8 x 8 pixels in three colours; the model sees it damaged and tells 192 numbers. The base has learned to undo
a little noise, fading and small gaps. The score is the part of the damage that is undone: 1 - squared error of what is
restored / squared error of the damaged piece.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.quality.worlds.kinds import VISION_TRANSFORMER, Batch, Kind, World, cut

SIDE, TILE = 8, 32
PARTS = {"base": (0.35, 16_000), "tune": (0.35, 8_000), "validation": (0.12, 130), "test": (0.18, 270)}
"""Part of the tiles, and how many pieces are taken from them."""


def _random(images: Tensor, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * len(images) + seed)


def _noisy(images: Tensor) -> Tensor:
    return images + 0.25 * torch.randn(images.shape, generator=_random(images, 1))


def _speckled(images: Tensor) -> Tensor:
    hit = torch.rand(images[:, :1].shape, generator=_random(images, 2))
    return torch.where(hit < 0.15, -0.5, torch.where(hit > 0.85, 0.5, images))


def _without(rows: slice, columns: slice, colours: slice = slice(None)) -> Callable[[Tensor], Tensor]:
    def damage(images: Tensor) -> Tensor:
        damaged = images.clone()
        damaged[:, colours, rows, columns] = 0
        return damaged

    return damage


def _framed(images: Tensor) -> Tensor:
    return F.pad(images[:, :, 2:6, 2:6], (2, 2, 2, 2))


def _mosaic(images: Tensor) -> Tensor:
    """Keep one colour of each pixel, as a camera's sensor does."""
    kept = torch.zeros(3, SIDE, SIDE)
    kept[0, ::2, ::2] = kept[1, ::2, 1::2] = kept[1, 1::2, ::2] = kept[2, 1::2, 1::2] = 1
    return images * kept


ALL = slice(None)
DAMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "noise": _noisy,
    "specks": _speckled,
    "hole": _without(slice(2, 6), slice(2, 6)),
    "half-missing": _without(ALL, slice(4, 8)),
    "frame-missing": _framed,
    "rows-missing": _without(slice(1, 8, 2), ALL),
    "grey": lambda images: images.mean(1, keepdim=True).expand(-1, 3, -1, -1),
    "mosaic": _mosaic,
    "posterised": lambda images: (images * 2).round() / 2,
    "without-red": _without(ALL, ALL, slice(1)),
    "without-blue": _without(ALL, ALL, slice(2, 3)),
    "columns-missing": _without(ALL, slice(0, 8, 2)),
    "corner-missing": _without(slice(3), slice(5, 8)),
}
"""What is done to pieces: [N, 3, 8, 8] in -0.5 to 0.5, to the same."""


HELD_OUT = ("without-blue", "columns-missing", "corner-missing")
"""What nobody contributes a patch for."""


@dataclass(frozen=True)
class Restoration(Kind):
    """See the module."""

    name: str = "restoration"
    held_out: Sequence[str] = HELD_OUT
    tasks: Sequence[str] = tuple(damage for damage in DAMAGES if damage not in HELD_OUT)
    measure: str = "part of the damage undone"
    counts: Sequence[int] = (1, 2, 4, 7, 10)
    worlds: int = 2
    orders: int = 3
    base_steps: int = 1400
    tune_steps: int = 250
    rate: float = 5e-4
    batch: int = 64

    def world(self, seed: int) -> World:
        """Cut the photographs."""
        random = np.random.default_rng(seed)
        tiles = _tiles()
        order = torch.from_numpy(random.permutation(len(tiles)))
        bounds = (len(tiles) * np.cumsum([share for share, _ in PARTS.values()])).round().astype(int)
        split = {
            name: _pieces(tiles[places], count, random)
            for (name, (_, count)), places in zip(
                PARTS.items(), torch.tensor_split(order, bounds[:-1].tolist()), strict=True
            )
        }

        def mixture(generator: torch.Generator) -> Batch:
            clean = split["base"][torch.randint(len(split["base"]), (self.batch * 2,), generator=generator)]
            return Batch(_vary(clean, generator), clean, "base")

        def part(damage: str, name: str) -> Batch:
            return Batch(DAMAGES[damage](split[name]).contiguous(), split[name], damage)

        return World(mixture, cut(DAMAGES, part))

    def new(self) -> nn.Module:
        """Return a model with random weights."""
        from transformers import ViTConfig, ViTForMaskedImageModeling

        config = ViTConfig(**VISION_TRANSFORMER, num_channels=3, encoder_stride=4)
        return ViTForMaskedImageModeling(config)

    def load(self, folder: Path) -> nn.Module:
        """Load a model."""
        from transformers import ViTForMaskedImageModeling

        model: nn.Module = ViTForMaskedImageModeling.from_pretrained(folder)
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the squared error beside that of the damaged pieces, which puts all tasks on one scale."""
        restored: Tensor = model(pixel_values=batch.x).reconstruction
        return F.mse_loss(restored, batch.y) / F.mse_loss(batch.x, batch.y)

    def score(self, model: nn.Module, batch: Batch) -> float:
        """Return the part of the damage that is undone."""
        return 1 - float(self.loss(model, batch))


def _tiles() -> Tensor:
    """Return the photographs as tiles, float32 [tiles, 3, TILE, TILE] in -0.5 to 0.5."""
    from sklearn.datasets import load_sample_images

    found = []
    for image in load_sample_images().images:
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 - 0.5
        tiles = pixels.unfold(1, TILE, TILE).unfold(2, TILE, TILE)  # [3, rows, columns, TILE, TILE]
        found.append(tiles.permute(1, 2, 0, 3, 4).flatten(0, 1))
    return torch.cat(found)


def _pieces(tiles: Tensor, count: int, random: np.random.Generator) -> Tensor:
    """Take pieces from anywhere in tiles: [count, 3, SIDE, SIDE]."""
    which = random.integers(len(tiles), size=count)
    rows, columns = random.integers(TILE - SIDE + 1, size=(2, count))
    return torch.stack(
        [
            tiles[tile, :, row : row + SIDE, column : column + SIDE]
            for tile, row, column in zip(which, rows, columns, strict=True)
        ]
    )


def _vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Add a little noise, fade, and leave small gaps."""

    def spread(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(images), *shape, generator=generator)

    noise = torch.randn(images.shape, generator=generator) * spread(0, 0.1, 1, 1, 1)
    kept = torch.rand(len(images), 1, SIDE, SIDE, generator=generator) > spread(0, 0.15, 1, 1, 1)
    return (images * spread(0.7, 1, 1, 1, 1) + noise) * kept
