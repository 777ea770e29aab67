"""diff, show, apply, digest: patches and models on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands.options import (
    Alpha,
    Device,
    DeviceMemory,
    DropBottom,
    DropTop,
    Granularity,
    Json,
    Method,
    Quiet,
    ValueDtype,
    connect,
    mask_of,
    parse_size,
)
from client.terminal.beside import file_lines, panel, patch_panel
from client.terminal.console import Console, fields, plain, size, table
from registry.breadcrumbs.comparing.alpha import AUTO

if TYPE_CHECKING:
    from registry.breadcrumbs.checking.check import PatchReport
    from registry.schemas import Patch, TensorStats


def diff(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model before.", show_default=False)],
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The model after.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The patch file to write.")],
    drop_bottom: DropBottom = None,
    drop_top: DropTop = None,
    granularity: Granularity = None,
    value_dtype: ValueDtype = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only tensors whose name matches; may be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="No tensors whose name matches; may be repeated.")
    ] = None,
    strip_prefix: Annotated[
        str | None,
        typer.Option(metavar="PREFIX", help="Read names without it, like module. or model., where one side lacks it."),
    ] = None,
    shared_only: Annotated[
        bool, typer.Option("--shared-only", help="Leave out tensors that only one side has, or of other shapes.")
    ] = False,
    shared_rows: Annotated[
        bool, typer.Option("--shared-rows", help="Compare the rows that both have where a vocabulary grew or shrank.")
    ] = False,
    companion: Annotated[
        bool, typer.Option("--companion", help="Write what only TUNED has, like a head, to a file beside the patch.")
    ] = False,
    device: Device = "cpu",
    device_memory: DeviceMemory = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a breadcrumb patch from what fine-tuning changed.

    BASE and TUNED are each a .safetensors file, a model folder, or a Hub id org/name[@revision]. TUNED may also be
    an adapter for BASE (LoRA, DoRA, LoHa, LoKr, IA3), of PEFT, kohya, LyCORIS or diffusers.

    A patch holds changes of weights alone. What differs beside them is shown: keys of configs, the chat template, the
    tokenizer, added files.
    """
    from dataclasses import asdict

    from client.actions.patching import diff as run

    console = Console(as_json, quiet)
    patch = run(
        base,
        tuned,
        out,
        **mask_of(drop_bottom, drop_top, granularity, value_dtype),
        include=include or (),
        exclude=exclude or (),
        strip_prefix=strip_prefix,
        shared_only=shared_only,
        shared_rows=shared_rows,
        companion=companion,
        device=device,
        device_memory=parse_size(device_memory),
        console=console,
    )
    document = {
        **{name: value for name, value in asdict(patch).items() if name not in ("parameters", "adapter_base")},
        "file": str(patch.file),
        "companion": str(patch.companion) if patch.companion else None,
        "density": patch.density,
        "adapter": {"method": patch.adapter, "base_model": patch.adapter_base} if patch.adapter else None,
    }
    lines = (line for it in patch.beside for line in file_lines(it.path, it.change, it.size, it.keys, it.more))
    text = fields([(name, plain(value)) for name, value in patch.rows()])
    console.result(document, text + panel("Beside the weights, and not in the patch:", lines), patch.sha256)


def show(
    patch: Annotated[
        str,
        typer.Argument(metavar="FILE|NS/NAME#N[.R]|NS/NAME@REF", help="A patch or a release.", show_default=False),
    ],
    files: Annotated[
        Path | None,
        typer.Option("--files", metavar="DIR", help="Download the files that came with the patch into this folder."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a patch changes, or where a release comes from.

    For a patch: its header, the changes in each tensor, and the files that came with it. For a release: base, patches,
    authors, approvals, digests, and who built it. With --json, as an in-toto statement.
    """
    from client.actions.transfers import download_patch_files
    from client.terminal.addresses import parse_patch, parse_snapshot

    console = Console(as_json, quiet)
    address = None if Path(patch).exists() else parse_patch(patch)
    if files is not None and address is None:
        raise typer.BadParameter("files come with a patch at a registry: NS/NAME#N.", param_hint="--files")
    if address is None and "@" in patch and not Path(patch).exists():
        from client.commands.releasing.releases import show_provenance

        with connect() as client:
            show_provenance(client, *parse_snapshot(patch), console)
        return
    if address is None:
        _show_file(console, Path(patch))
        return
    with connect() as client:
        remote = client.patch(*address)
        tensors = client.patch_tensors(*address) if remote.check == "checked" else []
        model = client.model(address[0])
        if files is not None:
            with console.progress("downloading files") as progress:
                download_patch_files(client, remote, files, progress=progress)
    document = {**remote.model_dump(mode="json"), "model_size": model.size, "tensors": tensors}
    console.result(document, _remote_text(remote, tensors, model.size, model.parameters), remote.sha256)


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
                f"{report.nnz:,} of the {numel:,} weights of the tensors it changes ({report.nnz / numel:.2%})",
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
        total = f" of {parameters:,}" if parameters else ""
        pairs.append(("changes", f"{patch.nnz:,}{total} weights ({patch.density:.2%}) in {len(tensors)} tensors"))
    pairs.append(("size", f"{size(patch.size)}, {patch.size / max(whole, 1):.1%} of the model's {size(whole)}"))
    text = fields(pairs) + patch_panel(patch.files)
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
        typer.Argument(metavar="PATCH[:WEIGHT]", help="Patch files; the weight is 1 by default.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The model folder to make.")],
    alpha: Alpha = AUTO,
    method: Method = "sum",
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", metavar="K:GLOB=F", help="Multiply the weight of the K-th patch by F in these tensors."
        ),
    ] = None,
    device: Device = "auto",
    device_memory: DeviceMemory = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compose patches onto a base here, without a registry.

    Writes base + alpha * sum(weight * patch) as a whole model folder, which appears at once or not at all. The other
    methods average patches where they meet: ties those with the sign that has more weight, mean all of them. --where
    '2:layers.0.*=0.5' halves the second patch in these tensors; the first that matches a tensor counts.

    BASE is a .safetensors file, a model folder, or a Hub id org/name[@revision]. DIR must be new or empty.
    """
    from dataclasses import asdict

    from client.actions.patching import apply as run
    from client.terminal.addresses import parse_factor

    console = Console(as_json, quiet)
    model = run(
        base,
        patches,
        out,
        alpha=alpha,
        method=method,
        where=[parse_factor(text) for text in where or ()],
        device=device,
        device_memory=parse_size(device_memory),
        console=console,
    )
    document = {**asdict(model), "folder": str(model.folder)}
    console.result(document, fields(model.rows()), model.weights_digest)


def digest(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print a model's weights digest.

    The digest depends on the weights alone, not on files or shards: the same tensors have the same digest.

    MODEL is a .safetensors file, a model folder, or a Hub id org/name[@revision].
    """
    from client.machine.sources import resolve

    console = Console(as_json, quiet)
    path = resolve(model, quiet=quiet)

    from registry.breadcrumbs.formats.checkpoint import open_checkpoint
    from registry.breadcrumbs.formats.digest import digest_checkpoint
    from registry.breadcrumbs.formats.weight_files import tell_left_out

    with open_checkpoint(path) as checkpoint, console.progress("hashing") as progress:
        weights_digest = digest_checkpoint(checkpoint, progress)
        document = {
            "model": model,
            "weights_digest": weights_digest,
            "tensors": len(checkpoint.tensors),
            "parameters": sum(spec.numel for spec in checkpoint.tensors.values()),
            "size": checkpoint.size,
            "left_out": list(checkpoint.left_out),
        }
        if checkpoint.left_out:
            console.note(tell_left_out(checkpoint.left_out))
    console.result(document, weights_digest)
