"""Tasks, which run in disposable processes: the science on strangers' bytes, with JSON in and JSON out.

Inputs are paths of blobs or of the cache. Inputs of a composition are hashed again while they are read, since disks
lose bits. Fetching from a Hub is a task as well, and does not look into the files that it fetches.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from registry.breadcrumbs.checking.check import check_patch as check_file
from registry.breadcrumbs.checking.claims import CheckResult, check_beside, check_density
from registry.breadcrumbs.checking.companions import check_companion
from registry.breadcrumbs.checking.finite import check_finite, try_on
from registry.breadcrumbs.checking.repeats import check_repeats
from registry.breadcrumbs.comparing.conflicts import analyse
from registry.breadcrumbs.composing import compose as engine
from registry.breadcrumbs.composing.variances import tell_negative
from registry.breadcrumbs.diffing.bases import refuse_unfit
from registry.breadcrumbs.formats.checkpoint import CONFIG_BYTES, open_checkpoint
from registry.breadcrumbs.formats.digest import tensor_digests, weights_digest
from registry.breadcrumbs.formats.header import TensorSpec
from registry.breadcrumbs.formats.patchfile import Patch, open_patch
from registry.breadcrumbs.formats.recipe import make_recipe
from registry.breadcrumbs.formats.weight_files import read_json
from registry.errors import InvalidInput, StorageFailed
from registry.files.beside import COMPANION, MOST_KEYS, is_json, key_changes, shorten
from registry.files.folders import CONFIG
from registry.outside.hub import Download, Hub, listing
from registry.sandboxes.inputs import WHOLE, Extents, opened, require_digest, require_files
from registry.sandboxes.stages import stage
from registry.storage.cache import Cache
from registry.storage.store import Store

Progress = Callable[[float], None]
NAME_SHOWN = 200  # characters of the name of a tensor in a companion


def fraction(progress: Progress) -> Callable[[int, int], None]:
    """Return a callback for (done, all) that reports a number from 0 to 1."""
    return lambda done, whole: progress(done / whole if whole else 1.0)


def list_source(hub: Mapping[str, Any], source: str, progress: Progress) -> dict[str, Any]:
    """List a base at a Hub: its commit, and (path, bytes, object) of each file.

    Args:
        hub: Fields of a Hub.
        source: `hf://org/name@revision`.
        progress: Not called.

    Raises:
        InvalidRequest, JobFailed, Unavailable: As of `registry.outside.hub.listing`.
    """
    commit, files = listing(Hub(**hub), source)
    return {"commit": commit, "files": files}


def fetch(
    hub: Mapping[str, Any],
    source: str,
    files: Sequence[tuple[str, int, str]],
    data: str,
    reserve: int | None,
    progress: Progress,
) -> dict[str, str]:
    """Fetch files of a base into the cache; interrupted downloads resume.

    Args:
        hub: Fields of a Hub.
        source: `hf://org/name@<commit>`.
        files: (path, bytes, object) of each; the object is a sha256, or git's id.
        data: The folder that the cache is in.
        reserve: Bytes of its disk that stay free; None for the default.
        progress: Called with a number from 0 to 1 now and then.

    Returns:
        The sha256 of each file, by its object.

    Raises:
        JobFailed, Unavailable: As of `registry.outside.hub.Download`.
        StorageFull, StorageFailed: The disk has no room for them, or failed.
    """
    cache, host, fetched = Cache(Store(Path(data), reserve)), Hub(**hub), dict[str, str]()
    whole, done = sum(size for _, size, _ in files), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done / whole if whole else 1.0)

    with host.client() as client:
        for path, size, name in files:
            with cache.partial(name) as file:
                if cache.path(name).is_file():  # another process has fetched it meanwhile
                    cache.discard(name)
                    fetched[name] = name
                else:
                    cache.make_room(size - os.fstat(file.fileno()).st_size, path)
                    fetched[name] = Download(host, source, path, size, name, file, advance).run(client)
                    cache.keep(file, name, fetched[name])
    return fetched


def check_config(path: str, progress: Progress) -> bool:
    """Refuse a base that is quantised, by its config.json alone, before its weights are fetched.

    Args:
        path: The file.
        progress: Not called.

    Returns:
        True, since a sandbox waits for a result.

    Raises:
        InvalidCheckpoint: The config is not sound, or says that the base is quantised.
    """
    refuse_unfit(read_json(Path(path), CONFIG, CONFIG_BYTES), (), "The base")
    return True


def import_base(files: Mapping[str, str], progress: Progress, pickled: Sequence[str] = ()) -> dict[str, Any]:
    """Read a base's weight files; return its weights digest, its tensors, and where the files have them.

    Args:
        files: Path of each file of the base (weights, index, config) by its name in the folder.
        progress: Called with a number from 0 to 1 now and then.
        pickled: Names of files with pickled weights, which are not here and are never opened.

    Raises:
        InvalidCheckpoint: The files are not a sound checkpoint, or are quantised, or an adapter; or a component has
            only pickled weights.
        StorageFailed: A file is missing.
    """
    require_files(files.values())
    named = {name: Path(path) for name, path in files.items()}
    with open_checkpoint({path: Path(path) for path in pickled} | named) as base:
        refuse_unfit(base.config, base.tensors, "The base")
        digests = tensor_digests(base, fraction(progress))
        tensors = [(name, spec.dtype, list(spec.shape), digests[name]) for name, spec in base.tensors.items()]
        return {
            "weights_digest": weights_digest(tensors),
            "parameters": sum(spec.numel for spec in base.tensors.values()),
            "model_type": base.config.get("model_type"),
            "tensors": tensors,
            "headers": {file: hashed(base.read_header_bytes(file)) for file in base.files},
            "places": {
                name: (file, entry.start)
                for file, header in base.headers.items()
                for name, entry in header.entries.items()
            },
        }


def hashed(raw: bytes) -> tuple[int, str]:
    """Return the length of bytes, and their sha256."""
    return len(raw), hashlib.sha256(raw).hexdigest()


def list_touched(path: str, progress: Progress) -> list[str]:
    """Return the names of the tensors that a stranger's patch file is about; none if it is not sound.

    Args:
        path: The file, of which only the header is read.
        progress: Not called.

    Raises:
        BlobDamaged: The file is missing.
    """
    require_files([path])
    try:
        with open_patch(Path(path)) as patch:
            return list(patch.info.tensors)
    except InvalidInput:  # the check says what is wrong, and does not read the base
        return []


def check_patch(
    path: str,
    sha256: str,
    base: str,
    tensors: Sequence[tuple[str, str, list[int]]],
    files: Mapping[str, str],
    progress: Progress,
    beside: Mapping[str, tuple[str, str | None]] | None = None,
    release: tuple[str, Sequence[tuple[float, str]]] | None = None,
) -> dict[str, Any]:
    """Check a stranger's patch file against a base; return its statistics and the results of the checks.

    A file that is not a sound patch for the base is an error; a sound patch that is of little use fails a check.

    Args:
        path: The file.
        sha256: The file's expected sha256.
        base: Weights digest of the base.
        tensors: (name, dtype, shape) of every tensor of the base.
        files: Path of each file of the base (weights, index, config) by its name in the folder.
        progress: Called with a number from 0 to 1 now and then.
        beside: Path of each file that came with the patch, and of the base's file of that name, if it has one.
        release: Version of the release that the model may have been tuned from, and scale and path of its patches.

    Raises:
        InvalidPatch, BaseMismatch: The file breaks a rule; the message names the entry and the rule.
        StorageFailed: The file, or one of the base's, is missing or damaged.
    """
    pairs = beside or {}
    parts = [part for _, part in release[1]] if release else []
    require_files([path, *files.values(), *(mine for mine, _ in pairs.values()), *parts])
    specs = {name: TensorSpec(dtype, tuple(shape)) for name, dtype, shape in tensors}
    report = check_file(Path(path), base, specs, fraction(lambda done: progress(done / 2)), extents=True)
    require_digest(sha256, report.sha256)
    try:
        with (
            open_checkpoint({name: Path(file) for name, file in files.items()}) as checkpoint,
            open_patch(Path(path)) as patch,
        ):
            tried = try_on(checkpoint, patch, fraction(lambda done: progress((1 + done) / 2)))
            finite = check_finite(checkpoint, tried.overflows)
            repeated = [_compare_release(patch, *release)] if release else []
    except InvalidInput as problem:  # the base was checked when it was imported, the patch above
        raise StorageFailed(f"A blob of the base {base} is damaged: {problem}") from None
    companion = check_companion(Path(pairs[COMPANION][0]), specs) if COMPANION in pairs else {}
    unread = [name for name, (mine, _) in pairs.items() if name.endswith(".json") and not is_json(Path(mine))]
    checks = [
        CheckResult("format", "pass", "The file is a sound patch."),
        CheckResult("base", "pass", f"It is for this model's base, {base}."),
        finite,
        check_density(report.params, report.tensors),
        *([check_beside(list(pairs), unread)] if pairs else []),
        *repeated,
    ]
    return {
        "checks": [asdict(check) for check in checks],
        "nnz": report.nnz,
        "density": report.density,
        "drop_bottom": report.params.drop_bottom,
        "drop_top": report.params.drop_top,
        "granularity": report.params.granularity,
        "value_dtype": report.params.value_dtype,
        "rounding": tried.rounding,
        "base_norm": tried.base_norm,
        "header_size": report.header.stop if report.header else None,
        "header_sha256": report.header.sha256 if report.header else None,
        "beside": {
            name: {"keys": [[it.key, it.before, it.after] for it in found[0]], "more": found[1]}
            for name, (mine, theirs) in pairs.items()
            if theirs and name.endswith(".json") and (found := key_changes(Path(theirs), Path(mine)))
        }
        | ({COMPANION: described(companion)} if companion else {}),
        "tensors": [
            {
                "name": tensor.name,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "nnz": tensor.nnz,
                "density": tensor.density,
                "l1": tensor.l1,
                "l2": tensor.l2,
                "linf": tensor.linf,
                "extents": [astuple(extent) for extent in tensor.extents or ()],
            }
            for tensor in report.tensors
        ],
    }


def described(companion: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """Return the tensors of a companion as what differs in a file: keys, each without a value in the base."""
    shown = [(shorten(name, NAME_SHOWN), None, f"{spec.dtype} {list(spec.shape)}") for name, spec in companion.items()]
    return {"keys": shown[:MOST_KEYS], "more": max(len(shown) - MOST_KEYS, 0)}


def compose(
    base: Mapping[str, tuple[str, str]],
    patches: Mapping[str, str],
    recipe: Mapping[str, Any],
    out: str | None,
    device: str,
    device_memory: int | None,
    progress: Progress,
    excerpts: Mapping[str, Extents] = WHOLE,
) -> dict[str, Any]:
    """Compose a recipe into the weight files of a model, or only find out their digests.

    Args:
        base: (path, sha256) of each file of the base by its name in the folder.
        patches: Path of each patch file by its sha256.
        recipe: `base`, `alpha`, `items` and `method`, as `make_recipe` takes them.
        out: The folder to write to; None to write nothing.
        device: auto, cpu or cuda.
        device_memory: Most bytes to use on a GPU; None for the default.
        progress: Called with a number from 0 to 1 now and then.
        excerpts: Of the patches whose files are not here whole, the extents that are.

    Returns:
        Digest, device and seconds; warnings; the sha256 of each weight file and of the base's indexes; and the bytes of
        each weight file.

    Raises:
        NotFinite: The result overflows; the message names the tensor.
        StorageFailed: An input is missing or damaged.
    """
    others = {sha256: path for path, sha256 in base.values()}
    checked = make_recipe(**recipe)
    with (
        opened(patches, others, excerpts=excerpts, most=1) as opened_patches,
        open_checkpoint({name: Path(path) for name, (path, _) in base.items()}) as checkpoint,
        stage("kernels") as known,
    ):
        result = engine.compose(
            checkpoint,
            opened_patches,
            checked,
            None if out is None else Path(out),
            device,
            fraction(progress),
            file_digests=True,
            base_files={name: base[name][1] for name in checkpoint.files},
            device_memory=device_memory,
        )
        known |= {"device": result.device, "patches": str(len(opened_patches)), "method": checked.method}
    return {
        "weights_digest": result.weights_digest,
        "device": result.device,
        "seconds": result.seconds,
        "warnings": tell_negative(result.negative),
        "files": {name: file.sha256 for name, file in result.files.items()}
        | {index: base[index][1] for index in checkpoint.indexes},
        "sizes": {name: file.size for name, file in result.files.items()},
    }


def conflicts(
    patches: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    device: str,
    device_memory: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Compare patches of one base: where they touch the same weights, and whether they pull the same way there.

    Args:
        patches: Path of each patch file by its sha256.
        pairs: sha256 of the first and the second patch of each pair to compare.
        device: auto, cpu or cuda.
        device_memory: Most bytes to use on a GPU; None for the default.
        progress: Called with a number from 0 to 1 now and then.

    Returns:
        The fields of `Sums` for each tensor of each pair; and for each tensor that a patch touches, how many weights
        are touched by 0, 1, ... patches.

    Raises:
        InvalidRequest: A pair names a patch that is missing from `patches`.
        StorageFailed: A file is missing or damaged.
    """
    with opened(patches) as opened_patches:
        wanted = [(first, second) for first, second in pairs]
        analysis = analyse(opened_patches, wanted, device, fraction(progress), device_memory)
    return {
        "pairs": [
            {"first": first, "second": second, "tensors": {name: asdict(sums) for name, sums in tensors.items()}}
            for (first, second), tensors in analysis.pairs.items()
        ],
        "census": {name: list(counts) for name, counts in analysis.census.items()},
    }


def _compare_release(patch: Patch, version: str, parts: Sequence[tuple[float, str]]) -> CheckResult:
    """Compare a patch with those of a release, which were checked when they came."""
    with ExitStack() as stack:
        held = [(scale, stack.enter_context(open_patch(Path(path)))) for scale, path in parts]
        return check_repeats(patch, version, held)
