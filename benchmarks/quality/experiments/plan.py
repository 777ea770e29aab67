"""What the experiments try, and how much of it; quality/plans.py has the plans themselves."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.quality.experiments.merging import Setting
from benchmarks.quality.worlds.kinds import Kind


@dataclass(frozen=True)
class Plan:
    """What is tried.

    Attributes:
        kinds: The kinds of data.
        alphas: Values of alpha, a grid with nearly equal ratios, which goes on while its edge wins (alphas.py).
        bottoms, tops: Cuts among which breadcrumbs are tuned.
        trims: Values of drop_bottom among which TIES is tuned.
        few: Numbers of tasks on which settings are chosen once.
        fine_bottoms, fine_tops: Cuts of the ablation's grid.
        grid_count: Number of tasks in that grid and in the experiment on size.
        ablation_counts: At most how many of the kind's counts the ablation looks at; the largest ones.
        few_samples: Numbers of examples that a held-out task is learned from.
        few_seeds: How often that is done.
    """

    kinds: Sequence[Kind]
    alphas: Sequence[str] = ("0.06", "0.1", "0.18", "0.3", "0.5", "0.9", "1.5")
    bottoms: Sequence[str] = ("0.7", "0.85", "0.95")
    tops: Sequence[str] = ("0", "0.007")
    trims: Sequence[str] = ("0.5", "0.8")
    few: Sequence[int] = (2, 4)
    fine_bottoms: Sequence[str] = ("0", "0.5", "0.7", "0.85", "0.95", "0.98")
    fine_tops: Sequence[str] = ("0", "0.007", "0.02", "0.05")
    grid_count: int = 6
    ablation_counts: int = 2
    few_samples: Sequence[int] = (16, 64)
    few_seeds: int = 1

    def tuned_cuts(self) -> dict[str, list[Setting]]:
        """Return what each method is tuned over, without alphas."""
        return {
            "breadcrumbs": [Setting("breadcrumbs", bottom, top) for bottom in self.bottoms for top in self.tops],
            "task arithmetic": [Setting("task arithmetic")],
            "TIES": [Setting("TIES", trim, "0") for trim in self.trims],
        }
