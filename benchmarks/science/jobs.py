"""What a measured process does: `python -m benchmarks.science.jobs JSON`; it prints the seconds of its work as JSON.

    imports            nothing: what the memory of the others is compared with
    diff               the patch from base to tuned
    compose            base and patches
    diff-compose       the patches of several tuned models, one after another, and then base and patches

The work is done on a tiny model first, so that no compiler and no first use is measured.
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from registry.breadcrumbs.composing.compose import Composed, compose
from registry.breadcrumbs.composing.ranges import ComposedWeights
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import Checkpoint, open_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import Patch, open_patch
from registry.breadcrumbs.formats.recipe import Recipe, make_recipe


def compose_files(
    base: Path,
    patches: Mapping[str, Path],
    out: Path,
    alpha: str,
    device: str = "cpu",
    **options: Any,
) -> Composed:
    """Compose patches, given by their sha256, into an existing folder; options are those of `compose`."""
    with _opened(base, patches, alpha) as (checkpoint, opened, recipe):
        return compose(checkpoint, opened, recipe, out, device, **options)


@contextmanager
def open_ranges(base: Path, patches: Mapping[str, Path], alpha: str) -> Iterator[ComposedWeights]:
    """Open the weight files of a composition of patches, given by their sha256, without writing them."""
    with _opened(base, patches, alpha) as (checkpoint, opened, recipe):
        yield ComposedWeights(checkpoint, opened, recipe)


@contextmanager
def _opened(
    base: Path, patches: Mapping[str, Path], alpha: str
) -> Iterator[tuple[Checkpoint, dict[str, Patch], Recipe]]:
    with ExitStack() as stack:
        checkpoint = stack.enter_context(open_checkpoint(base))
        opened = {sha256: stack.enter_context(open_patch(path)) for sha256, path in patches.items()}
        digest = next(iter(opened.values())).info.base
        yield checkpoint, opened, make_recipe(digest, alpha, [(sha256, "1") for sha256 in opened])


def diff_files(base: Path, tuned: Path, out: Path, mask: MaskParams) -> str:
    """Write a patch; return its sha256."""
    with open_checkpoint(base) as ours, open_checkpoint(tuned) as theirs:
        made = diff(ours, theirs, out, mask).sha256
    assert made is not None
    return made


def work(job: Mapping[str, Any], out: Path) -> dict[str, float]:
    """Do a job in an empty folder; return the phases that are known of it."""
    base, mask = Path(job["base"]), MaskParams(**job["mask"])
    patches = {sha256: Path(path) for sha256, path in job.get("patches", {}).items()}
    if job["job"] in ("diff", "diff-compose"):
        patches = {}
        for number, tuned in enumerate(job["tuned"]):
            path = out / f"{number}.safetensors"
            patches[diff_files(base, Path(tuned), path, mask)] = path
    if job["job"] in ("compose", "diff-compose"):
        model = out / "model"
        model.mkdir()
        return compose_files(base, patches, model, job["alpha"], job["device"], **job["options"]).phases
    return {}


def main() -> None:
    """Do the job that the command line names."""
    job = json.loads(sys.argv[1])
    seconds, phases = 0.0, {}
    if job["job"] != "imports":
        for given in (job | job["tiny"], job):
            out = Path(tempfile.mkdtemp(dir=job["out"]))
            began = time.perf_counter()
            phases = work(given, out)
            seconds = time.perf_counter() - began
            shutil.rmtree(out)
    print(json.dumps({"seconds": seconds, "phases": phases}))


if __name__ == "__main__":
    main()
