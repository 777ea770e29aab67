"""diff, show, apply, digest: patches and models on this machine.

What is wrong without looking at weights is told before the seconds that importing torch takes.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands.options import Alpha, Device, DeviceMemory, Json, Quiet, connect, parse_size
from client.terminal.console import Console, fields, plain, size, table

if TYPE_CHECKING:
    from registry.breadcrumbs.checking.check import PatchReport
    from registry.schemas import Patch, TensorStats


def diff(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model before.", show_default=False)],
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The model after.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The patch file to write.")],
    drop_bottom: Annotated[
        str, typer.Option(metavar="DECIMAL", help="Share of the smallest changes to leave out.")
    ] = "0.85",
    drop_top: Annotated[
        str, typer.Option(metavar="DECIMAL", help="Share of the largest changes to leave out.")
    ] = "0.007",
    granularity: Annotated[
        str, typer.Option(metavar="tensor|row", help="Shares are of a whole tensor, or of each row.")
    ] = "tensor",
    value_dtype: Annotated[
        str, typer.Option(metavar="auto|BF16|F16|F32", help="Type of the stored changes; auto is the base's.")
    ] = "auto",
    include: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Only tensors of such a name.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="No tensors of such a name.")] = None,
    device: Device = "cpu",
    device_memory: DeviceMemory = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a breadcrumb patch of what fine-tuning changed.

    BASE and TUNED are each a .safetensors file, a model folder, or a Hub id org/name[@revision]. TUNED may also be a
    LoRA adapter for BASE, as PEFT saves it.
    """
    from client.machine.sources import resolve
    from registry.errors import InvalidRequest, WrongState

    console = Console(as_json, quiet)
    if out.is_dir():
        raise InvalidRequest(f"{out} is a folder; name the patch file to write, like {out / 'patch.safetensors'}.")
    models = resolve(base, quiet=quiet), resolve(tuned, quiet=quiet)
    for model in models:
        if model.is_dir() and out.resolve().is_relative_to(model.resolve()):
            raise InvalidRequest(f"{out} is inside the model {model}, which it would change; write it elsewhere.")

    from registry.breadcrumbs.diffing.adapters import Adapted, open_tuned
    from registry.breadcrumbs.diffing.diff import diff as make
    from registry.breadcrumbs.formats.checkpoint import open_checkpoint
    from registry.breadcrumbs.formats.layout import MaskParams

    dtype = "auto" if value_dtype.lower() == "auto" else value_dtype.upper()
    params = MaskParams(drop_bottom, drop_top, granularity.lower(), dtype)
    with open_checkpoint(models[0]) as before, open_tuned(models[1], before) as after:
        if out.exists() and any(file.samefile(out) for file in (*before.files.values(), *after.files.values())):
            raise WrongState(f"{out} holds weights that are compared here; choose another file for the patch.")
        with console.progress("comparing") as progress:
            info = make(
                before,
                after,
                out,
                params,
                include or (),
                exclude or (),
                progress,
                device=device,
                device_memory=parse_size(device_memory),
            )
        parameters = sum(spec.numel for spec in before.tensors.values())
        whole = before.size
        adapter = after.config if isinstance(after, Adapted) else None
    nnz = sum(info.nnz.values())
    document = {
        "file": str(out),
        "sha256": info.sha256,
        "size": info.size,
        "base": info.base,
        "tensors": len(info.tensors),
        "nnz": nnz,
        "density": nnz / parameters,
        "model_size": whole,
        "adapter": {"base_model": adapter.base_model} if adapter else None,
    }
    pairs = [
        ("patch", str(out)),
        ("sha256", str(info.sha256)),
        ("base", info.base),
        ("changes", f"{nnz:,} of {parameters:,} weights ({nnz / parameters:.2%}) in {len(info.tensors)} tensors"),
        ("size", f"{size(info.size)}, {info.size / whole:.1%} of the model's {size(whole)}"),
    ]
    if adapter:
        pairs.insert(3, ("adapter", f"LoRA, trained on {plain(adapter.base_model or 'a base that it does not name')}"))
    console.result(document, fields(pairs), str(info.sha256))


def show(
    patch: Annotated[
        str,
        typer.Argument(metavar="FILE|NS/NAME#N[.R]|NS/NAME@REF", help="A patch or a release.", show_default=False),
    ],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show a patch: its header, and what it does to each tensor. Or show where a release comes from.

    Of a release: base, patches, authors, approvals, weights, digests, who built it. With --json, the same as an in-toto
    statement.
    """
    from client.terminal.addresses import parse_patch, parse_revision

    console = Console(as_json, quiet)
    named = None if Path(patch).exists() else parse_patch(patch)
    if named is None and "@" in patch and not Path(patch).exists():
        from client.commands.releasing.releases import show_provenance

        with connect() as client:
            show_provenance(client, *parse_revision(patch), console)
        return
    if named is None:
        _show_file(console, Path(patch))
        return
    with connect() as client:
        found = client.patch(*named)
        tensors = client.patch_tensors(*named) if found.check == "checked" else []
        whole = client.model(named[0])
    document = {**found.model_dump(mode="json"), "model_size": whole.size, "tensors": tensors}
    console.result(document, _remote_text(found, tensors, whole.size, whole.parameters), found.sha256)


def _show_file(console: Console, path: Path) -> None:
    from registry.errors import NotFound

    if not path.is_file():
        raise NotFound(f"There is no patch file {path}; a patch at the registry is written NS/NAME#N.")

    from registry.breadcrumbs.checking.check import check_patch
    from registry.breadcrumbs.formats.header import DTYPES
    from registry.breadcrumbs.formats.patchfile import open_patch

    with open_patch(path) as opened:
        info = opened.info
    with console.progress("reading") as progress:
        report: PatchReport = check_patch(path, info.base, info.tensors, progress)
    touched = sum(spec.numel * DTYPES[spec.dtype] for spec in info.tensors.values())
    numel = sum(spec.numel for spec in info.tensors.values())
    params = info.params
    document: dict[str, Any] = {
        "file": str(path),
        "sha256": report.sha256,
        "size": report.size,
        "base": info.base,
        "drop_bottom": params.drop_bottom,
        "drop_top": params.drop_top,
        "granularity": params.granularity,
        "value_dtype": params.value_dtype,
        "nnz": report.nnz,
        "touched_parameters": numel,
        "touched_size": touched,
        "tensors": [_row(tensor) for tensor in report.tensors],
    }
    text = fields(
        [
            ("patch", str(path)),
            ("sha256", report.sha256),
            ("base", info.base),
            ("mask", _mask(params.drop_bottom, params.drop_top, params.granularity, params.value_dtype)),
            (
                "changes",
                f"{report.nnz:,} of the {numel:,} weights of the tensors it touches ({report.nnz / numel:.2%})",
            ),
            ("size", f"{size(report.size)}, {report.size / touched:.1%} of those tensors' {size(touched)}"),
        ]
    )
    console.result(document, f"{text}\n\n{_tensor_table(report.tensors)}", report.sha256)


def _remote_text(patch: "Patch", tensors: "list[TensorStats]", whole: int, parameters: int | None) -> str:
    pairs = [
        ("patch", f"{patch.model}#{patch.number}, revision {patch.revision}, {patch.check}, {patch.state}"),
        ("title", plain(patch.title)),
        ("author", plain(patch.author)),
        ("task", plain(patch.task or "-")),
        ("date", f"{patch.created_at.astimezone():%a %b %d %H:%M:%S %Y %z}"),
        ("sha256", patch.sha256),
        ("base", patch.base),
    ]
    if patch.license:
        pairs.append(("licence", plain(patch.license)))
    if patch.reason:
        pairs.append((patch.state, plain(patch.reason)))
    if patch.superseded_by:
        pairs.append(("superseded", f"by #{patch.superseded_by}"))
    if patch.quarantined:
        pairs.append(("quarantined", plain(patch.quarantined)))
    if patch.check == "refused":
        pairs.append(("refused", plain(patch.refusal or "")))
    if patch.drop_bottom is not None:
        pairs.append(("mask", _mask(patch.drop_bottom, patch.drop_top, patch.granularity, patch.value_dtype)))
    if patch.nnz is not None and patch.density is not None:
        of = f" of {parameters:,}" if parameters else ""
        pairs.append(("changes", f"{patch.nnz:,}{of} weights ({patch.density:.2%}) in {len(tensors)} tensors"))
    pairs.append(("size", f"{size(patch.size)}, {patch.size / max(whole, 1):.1%} of the model's {size(whole)}"))
    text = fields(pairs)
    if patch.message.strip():
        text += "\n\n" + plain(patch.message.strip(), lines=True)
    return f"{text}\n\n{_tensor_table(tensors)}" if tensors else text


def _mask(drop_bottom: str | None, drop_top: str | None, granularity: str | None, value_dtype: str | None) -> str:
    return f"drop_bottom {drop_bottom}, drop_top {drop_top}, by {granularity}, values {value_dtype}"


def _row(tensor: Any) -> dict[str, Any]:
    names = ("name", "shape", "dtype", "nnz", "density", "l1", "l2", "linf")
    return {name: getattr(tensor, name) for name in names}


def _tensor_table(tensors: Any) -> str:
    rows = [
        (
            plain(tensor.name),
            tensor.dtype,
            "x".join(map(str, tensor.shape)) or "scalar",
            f"{tensor.nnz:,}",
            f"{tensor.density:.2%}",
            *(f"{norm:.4g}" for norm in (tensor.l1, tensor.l2, tensor.linf)),
        )
        for tensor in tensors
    ]
    return table(("tensor", "dtype", "shape", "nnz", "density", "l1", "l2", "linf"), rows, right=(3, 4, 5, 6, 7))


def apply(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model to start from.", show_default=False)],
    patches: Annotated[
        list[str],
        typer.Argument(metavar="PATCH[:WEIGHT]", help="Patch files, weight 1 if not said.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The model folder to make.")],
    alpha: Alpha = "0.3",
    device: Device = "auto",
    device_memory: DeviceMemory = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compose patches onto a base here, without a registry.

    Writes base + alpha * sum(weight * patch) as a whole model folder, which appears at once or not at all.

    BASE is a .safetensors file, a model folder, or a Hub id org/name[@revision]. DIR must be new or empty.
    """
    from dataclasses import asdict

    from client.actions.apply import apply as run
    from client.machine.folders import check_vacant
    from client.machine.sources import resolve
    from client.terminal.addresses import parse_file

    console = Console(as_json, quiet)
    check_vacant(out)
    name = None if Path(base).expanduser().exists() else base  # a Hub id
    local = resolve(base, quiet=quiet)
    done = run(
        local,
        [parse_file(text) for text in patches],
        out,
        alpha=alpha,
        device=device,
        device_memory=parse_size(device_memory),
        name=name,
        console=console,
    )
    text = fields(
        [
            ("model", str(out)),
            ("recipe", done.recipe),
            ("weights", done.weights_digest),
            ("computed", f"on {done.device} in {done.seconds:.1f} s"),
        ]
    )
    console.result({"folder": str(out), **asdict(done)}, text, done.weights_digest)


def digest(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print a model's weights digest.

    It names the weights alone and does not depend on files or shards: the same tensors, the same digest.

    MODEL is a .safetensors file, a model folder, or a Hub id org/name[@revision].
    """
    from client.machine.sources import resolve

    console = Console(as_json, quiet)
    found_at = resolve(model, quiet=quiet)

    from registry.breadcrumbs.formats.checkpoint import digest_checkpoint, open_checkpoint

    with open_checkpoint(found_at) as checkpoint, console.progress("hashing") as progress:
        found = digest_checkpoint(checkpoint, progress)
        document = {
            "model": model,
            "weights_digest": found,
            "tensors": len(checkpoint.tensors),
            "parameters": sum(spec.numel for spec in checkpoint.tensors.values()),
            "size": checkpoint.size,
        }
    console.result(document, found)
