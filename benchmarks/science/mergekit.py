"""Diff and compose against mergekit's `breadcrumbs`, on the same checkpoints: time and peak memory.

mergekit is installed in an environment of its own and run as its users run it, offline. What its parameters are here:

    density    1 - drop_top - drop_bottom: the part of the weights that is kept
    gamma      drop_top: the part that is dropped for being large
    weight     alpha: it scales each model's masked difference, and the scaled differences are added up
    dtype      the base's, in which mergekit also computes; float64 here

Both drop floor(gamma N); mergekit keeps floor(density N), and we keep up to two more. In 16 bits many differences of a
tensor are equal, the cuts fall among them, and which of these stay is up to each program: so the models differ there,
and in roundings.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.machine import filesystem_of
from benchmarks.measure import ROOT, Sample, alternate, read_files, run_job, run_process
from benchmarks.results import Bar, Result, Table, documents, megabytes, seconds, times
from benchmarks.science.cases import (
    Case,
    Files,
    PatchFile,
    add_case,
    case_of,
    is_asked,
    output,
    weight_files,
    workplace,
)
from benchmarks.science.compose import HASHING
from benchmarks.science.jobs import compose_files
from benchmarks.science.scaling import job_of
from registry.breadcrumbs.formats.arrays import read_floats
from registry.breadcrumbs.formats.checkpoint import open_checkpoint

WANTED = ("torch==2.13.0", "mergekit==0.1.5")
VENV = ROOT / "build" / "mergekit"
TORCH_NAMES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_case(parser, rounds=1)
    parser.add_argument("--venv", type=Path, default=VENV, help="mergekit's environment; made if it is not there")


def run(args: argparse.Namespace) -> Result:
    """Measure mergekit and ourselves."""
    case = case_of(args)
    mergekit = install(args.venv)
    needed = (case.patches + 3) * case.weight_bytes + 2 * case.patches * case.patch_bytes
    with workplace(args, needed) as files, output(files) as out:
        tuned = files.all_tuned(case)
        return measure(case, files, tuned, files.patches(case), out, args.rounds, mergekit)


def install(venv: Path) -> Path:
    """Return mergekit's command, in an environment that is made if it is not there."""
    command = venv.absolute() / "bin" / "mergekit-yaml"
    if not command.exists():
        print(f"installing {', '.join(WANTED)} into {venv}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "--quiet", *WANTED], check=True)
    return command


def environment(hub: Path) -> dict[str, str]:
    """Return what mergekit runs in: nothing of our Python, no network, and a Hugging Face folder of its own."""
    ours = {key: text for key, text in os.environ.items() if not key.startswith("PYTHON")}
    return {**ours, **OFFLINE, "HF_HOME": str(hub)}


def versions(command: Path) -> dict[str, str]:
    """Return the versions of what mergekit ran with."""
    names = ["mergekit", "torch", "transformers", "safetensors", "numpy"]
    code = f"from importlib.metadata import version; import json; print(json.dumps({{n: version(n) for n in {names}}}))"
    done = subprocess.run([command.parent / "python", "-c", code], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return {name: text.partition("+")[0] for name, text in found.items()}


def recipe_of(case: Case, base: Path, tuned: list[Path]) -> str:
    """Write what mergekit is to do; JSON is YAML too."""
    parameters = {"density": case.density, "gamma": float(case.drop_top), "weight": float(case.alpha)}
    models = [{"model": str(folder), "parameters": parameters} for folder in tuned]
    recipe = {
        "merge_method": "breadcrumbs",
        "base_model": str(base),
        "models": models,
        "dtype": TORCH_NAMES[case.dtype],
    }
    return json.dumps(recipe, indent=1)


def measure(
    case: Case, files: Files, tuned: list[Path], patches: list[PatchFile], out: Path, rounds: int, mergekit: Path
) -> Result:
    """Measure each in processes of its own."""
    if case.granularity != "tensor":
        raise SystemExit("mergekit masks whole tensors; choose --granularity tensor.")
    base, recipe, merged = files.base(case), out / "recipe.yaml", out / "merged"
    recipe.write_text(recipe_of(case, base, tuned))
    env = environment(out / "hub")

    def merge() -> Sample:
        shutil.rmtree(merged, ignore_errors=True)
        # No tokenizer is there to copy; everything else is as it comes.
        return run_process([mergekit, recipe, merged, "--no-copy-tokenizer"], env)

    both, alone = job_of("diff-compose", case, files, out, patches, tuned), job_of("compose", case, files, out, patches)
    run_job(both | {key: both["tiny"][key] for key in ("base", "tuned", "patches")})  # compiled, if it was not yet
    read_files([*weight_files([base, *tuned]), *(patch.path for patch in patches)])  # into page cache
    found = alternate(
        {
            "mergekit": merge,
            "diff of all, compose": lambda: run_job(both),
            **{name: partial(run_job, alone | {"options": options}) for name, options in HASHING.items()},
            "imports": lambda: run_job({"job": "imports"}),
        },
        rounds,
    )
    whole = found["mergekit"].median
    rows = [
        [
            name,
            "" if name in ("mergekit", "imports") else seconds(one.median),
            seconds(one.wall),
            one.wall_spread,
            "" if name in ("mergekit", "imports") else times(whole / one.median),
            "" if name in ("mergekit", "imports") else times(whole / one.wall),
            megabytes(one.peak),
            megabytes(one.anonymous),
        ]
        for name, one in found.items()
    ]
    columns = [
        "",
        "work",
        "process",
        "min..max",
        "mergekit / work",
        "mergekit / process",
        "peak memory",
        "without mapped files",
    ]
    tables = [Table("Time and memory", columns, rows)]
    far = compare(case, base, patches, out, merged)
    shown = [[name, f"{value:.4g}"] for name, value in far.items()]
    tables.append(Table("mergekit's model beside ours, which is exact before it is rounded", ["", ""], shown))
    bars = [
        Bar(f"mergekit / {name}", whole / found[name].median, limit, least=True, judged=is_asked(case))
        for name, limit in (("compose", 120.0), ("diff of all, compose", 10.0))
    ]
    notes = [
        "Work is what is done after imports and a first use; process is everything from start to end, that use "
        "included. mergekit is compared by its whole process. Peak memory counts the files that a process maps, as "
        "mergekit maps its inputs; the last column does not, and is sampled every 20 ms. mergekit hashes nothing, and "
        "neither does `compose`; `diff of all, compose` hashes base, patches and output."
    ]
    parameters = {
        **case.document(),
        "rounds": rounds,
        "inputs on": filesystem_of(base),
        "output on": filesystem_of(out),
    }
    parameters |= {name if name == "mergekit" else f"its {name}": text for name, text in versions(mergekit).items()}
    return Result("mergekit", parameters, tables, bars, documents(found) | {"numbers": far}, notes)


def compare(case: Case, base: Path, patches: list[PatchFile], out: Path, theirs: Path) -> Mapping[str, float]:
    """Compose once more, and compare with what mergekit left, tensor by tensor."""
    ours = out / "ours"
    ours.mkdir()
    compose_files(base, {patch.sha256: patch.path for patch in patches}, ours, case.alpha)
    apart = moved = 0.0
    equal = count = 0
    with open_checkpoint(base) as before, open_checkpoint(ours) as one, open_checkpoint(theirs) as other:
        for name, spec in one.tensors.items():
            start, a, b = (read_floats(found, name, 0, spec.numel) for found in (before, one, other))
            equal += int((a == b).sum())
            count += spec.numel
            apart += float(np.square(np.subtract(a, b, dtype=np.float64)).sum())
            moved += float(np.square(np.subtract(a, start, dtype=np.float64)).sum())
    shutil.rmtree(ours)
    return {
        "share of weights that are equal": equal / count,
        "distance from ours / distance of the base from ours": math.sqrt(apart / moved),
    }
