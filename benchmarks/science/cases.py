"""What is measured: one model, models fine-tuned from it, and their patches, made when they are needed.

    <work>/350M-bf16-0.v2/base/                             the base
    <work>/350M-bf16-0.v2/tuned-1/                          fine-tuned models, removed as soon as nothing needs them
    <work>/350M-bf16-0.v2/0.85-0.007-tensor/1.safetensors   patches, one folder for each way to mask

What is there already is used again.
"""

import argparse
import contextlib
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

from benchmarks.machine import MEMORY_DISK
from benchmarks.science.makers import CODES, VERSION, Llama, llama, make_base, make_tuned
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.header import DTYPES
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import normalise_decimal
from registry.files.threads import processors

FOLDER = "breadcrumb-benchmarks"
SPARE = 4 * 2**30
"""Bytes of memory that must stay free beside the files."""


@dataclass(frozen=True)
class Case:
    """A model, how many models are fine-tuned from it, and how they are masked."""

    params: str = "350M"
    dtype: str = "bf16"
    patches: int = 8
    drop_bottom: str = "0.85"
    drop_top: str = "0.007"
    granularity: str = "tensor"
    alpha: str = "0.3"
    seed: int = 0

    @property
    def shape(self) -> Llama:
        """The shape of the model."""
        return llama(self.params)

    @property
    def mask(self) -> MaskParams:
        """How patches are masked."""
        return MaskParams(self.drop_bottom, self.drop_top, self.granularity)

    @property
    def density(self) -> float:
        """The part of the weights that a patch keeps, about."""
        return float(1 - Fraction(self.drop_bottom) - Fraction(self.drop_top))

    @property
    def weight_bytes(self) -> int:
        """Bytes of the base."""
        return self.shape.parameters * DTYPES[CODES[self.dtype]]

    @property
    def patch_bytes(self) -> int:
        """Bytes of a patch, about."""
        mask = min(1 / 8, 4 * self.density)
        return int(self.shape.parameters * (mask + self.density * DTYPES[CODES[self.dtype]]))

    def document(self) -> dict[str, object]:
        """Return what a result says of it."""
        return {**asdict(self), "weights": self.shape.parameters, "density": round(self.density, 6)}


def add_case(parser: argparse.ArgumentParser, params: str = "350M", patches: int = 8, rounds: int = 5) -> None:
    """Add the options that choose a case, where its files go, and how often things are measured."""
    group = parser.add_argument_group("what is measured")
    group.add_argument(
        "--params", type=_size, default=params, help="size of the model, like 350M, 1B or 8B (%(default)s)"
    )
    group.add_argument("--patches", type=int, default=patches, help="number of patches (%(default)s)")
    group.add_argument("--dtype", choices=sorted(CODES), default="bf16", help="of the weights (%(default)s)")
    group.add_argument("--density", help="part of the weights that a patch keeps; sets --drop-bottom")
    group.add_argument("--drop-bottom", default="0.85", help="part dropped for being small (%(default)s)")
    group.add_argument("--drop-top", default="0.007", help="part dropped for being large (%(default)s)")
    group.add_argument("--granularity", choices=("tensor", "row"), default="tensor", help="group (%(default)s)")
    group.add_argument("--alpha", default="0.3", help="scale of the sum of patches (%(default)s)")
    group.add_argument("--seed", type=int, default=0, help="of the weights (%(default)s)")
    group.add_argument("--rounds", type=int, default=rounds, help="how often each is measured (%(default)s)")
    files = parser.add_argument_group("files")
    files.add_argument(
        "--work",
        type=Path,
        help=f"where to make models and patches; the temporary folder, or {MEMORY_DISK} if that is too full",
    )
    files.add_argument(
        "--keep",
        action="store_true",
        help="leave them there for the next run; else what this run makes is removed in the end",
    )


def _size(text: str) -> str:
    try:
        llama(text)
    except ValueError as why:
        raise argparse.ArgumentTypeError(str(why)) from None
    return text.upper()


def is_asked(case: Case) -> bool:
    """Say whether this is what the bars are about: the default case, on two cores."""
    return case == Case() and processors() == 2


def case_of(args: argparse.Namespace) -> Case:
    """Return the case that options choose."""
    drop_bottom = args.drop_bottom
    if args.density is not None:
        kept = Fraction(normalise_decimal(args.density, "density"))
        drop_bottom = decimal(1 - kept - Fraction(normalise_decimal(args.drop_top, "drop_top")))
    fields = MaskParams(drop_bottom, args.drop_top, args.granularity)
    return Case(
        args.params,
        args.dtype,
        args.patches,
        fields.drop_bottom,
        fields.drop_top,
        fields.granularity,
        args.alpha,
        args.seed,
    )


def decimal(number: Fraction) -> str:
    """Write a fraction that has at most 12 decimals as a decimal."""
    return normalise_decimal(f"{float(number):.12f}", "fraction")


@dataclass(frozen=True)
class PatchFile:
    """A patch on disk."""

    path: Path
    sha256: str
    base: str
    size: int
    kept: int


class Files:
    """Makes a case's files in a folder, and removes those that it made, not those that were there."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._made: set[Path] = set()

    def folder(self, case: Case) -> Path:
        """Return the folder of a case's model."""
        return self.work / f"{case.params}-{case.dtype}-{case.seed}.v{VERSION}"

    def base(self, case: Case) -> Path:
        """Return the folder of the base."""
        folder = self.folder(case) / "base"
        if not folder.exists():
            _say(f"making a base of {case.params} parameters")
            self._made.add(folder)
            make_base(folder, case.shape, case.dtype, case.seed)
        return folder

    def tuned(self, case: Case, number: int) -> Path:
        """Return the folder of fine-tuned model `number`, from 1 on."""
        folder = self.folder(case) / f"tuned-{number}"
        if not folder.exists():
            _say(f"fine-tuning model {number}")
            self._made.add(folder)
            make_tuned(self.base(case), folder, case.shape, case.dtype, case.seed + 1000 * number)
        return folder

    def all_tuned(self, case: Case) -> list[Path]:
        """Return the folders of all fine-tuned models."""
        return [self.tuned(case, number) for number in range(1, case.patches + 1)]

    def patches(self, case: Case) -> list[PatchFile]:
        """Return the patches; models that are fine-tuned for them alone do not stay."""
        mask = case.mask
        folder = self.folder(case) / f"{mask.drop_bottom}-{mask.drop_top}-{mask.granularity}"
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for number in range(1, case.patches + 1):
            path = folder / f"{number}.safetensors"
            if not path.exists():
                passing = not (self.folder(case) / f"tuned-{number}").exists()
                with open_checkpoint(self.base(case)) as base, open_checkpoint(self.tuned(case, number)) as tuned:
                    self._made.add(path)
                    diff(base, tuned, path, mask)
                if passing:
                    shutil.rmtree(self.tuned(case, number))
            found.append(_read(path))
        return found

    def tiny(self, case: Case) -> tuple[Path, Path, list[PatchFile]]:
        """Return base, tuned and patches, bitmask and indices, of a model to warm up with."""
        small = replace(case, params="1M", patches=1)
        sparse = replace(small, drop_bottom="0.99", drop_top="0")
        return self.base(small), self.tuned(small, 1), self.patches(small) + self.patches(sparse)

    def remove_made(self, case: Case | None = None) -> None:
        """Remove what was made here, of one case or of all, and folders that are empty then."""
        within = self.folder(case) if case else self.work
        for path in sorted(made for made in self._made if made.is_relative_to(within)):
            self._made.remove(path)
            for left in (path, path.with_name(path.name + ".part")):  # the latter where it was interrupted
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others' files are there
                for folder in path.parents[: len(path.relative_to(self.work).parts)]:
                    folder.rmdir()


def _read(path: Path) -> PatchFile:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with open_patch(path) as patch:
        info = patch.info
    return PatchFile(path, sha256, info.base, info.size, sum(info.nnz.values()))


@contextlib.contextmanager
def workplace(args: argparse.Namespace, needed: int) -> Iterator[Files]:
    """Open the folder for files; in the end remove what was made there, unless it is to be kept.

    Args:
        args: The options `--work` and `--keep`.
        needed: Bytes that will be there at a time.
    """
    beside = args.work
    if beside is None:
        temporary = Path(tempfile.gettempdir())
        full = shutil.disk_usage(temporary).free < needed + SPARE
        beside = MEMORY_DISK if full and MEMORY_DISK.is_dir() and room(needed) else temporary
    work = beside / FOLDER
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = Files(work)
    try:
        yield files
    finally:
        if args.keep:
            _say(f"models and patches stay in {work}")
        else:
            files.remove_made()


@contextlib.contextmanager
def output(files: Files) -> Iterator[Path]:
    """Open a folder in memory for what is written while it is measured."""
    beside = MEMORY_DISK if MEMORY_DISK.is_dir() else files.work
    with tempfile.TemporaryDirectory(prefix=f"{FOLDER}-", dir=beside) as folder:
        yield Path(folder)


def room(needed: int) -> bool:
    """Say whether files of `needed` bytes fit into memory, with some to spare."""
    found = shutil.disk_usage(MEMORY_DISK).free
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found = min(found, 1024 * int(line.split()[1]) - SPARE)
    return needed < found


def weight_files(folders: Sequence[Path]) -> list[Path]:
    """Return the weight files of models."""
    return [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
