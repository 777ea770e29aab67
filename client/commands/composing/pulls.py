"""pull, verify: the base and composed models."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Device, DeviceMemory, Json, Quiet, Snapshot, connect, parse_size
from client.terminal.console import Console, fields, plain, size

if TYPE_CHECKING:
    from client.actions.pull import Proof

MISMATCH = 3  # exit code: verification failed
Base = Annotated[str | None, typer.Option("--base", metavar="MODEL", help="A local copy of the base (it is verified).")]


def pull(
    snapshot: Snapshot,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to pull into.")],
    as_patches: Annotated[
        bool, typer.Option("--as-patches", help="Download base and patches, and compose here.")
    ] = False,
    base: Base = None,
    device: Device = "auto",
    device_memory: DeviceMemory = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download a model: a release, the base, or a composed one.

    REF is a version like 1.2.0, a channel like stable, base, a recipe digest, or 8 or more of its first digits. If not
    said: stable, else the newest release, else base. Every byte is verified. A killed pull goes on where it was. DIR
    may hold an earlier pull of the same model, which is brought up to date.
    """
    from client.actions import pull as pulls
    from client.machine.sources import resolve
    from client.terminal.addresses import parse_revision

    console = Console(as_json, quiet)
    model, ref = parse_revision(snapshot)
    if base is not None and not as_patches:
        raise typer.BadParameter("--base is for --as-patches.")
    with connect() as client:
        if as_patches:
            local = None if base is None else resolve(base, quiet=quiet)
            found = pulls.pull_as_patches(
                client,
                model,
                ref,
                out,
                base=local,
                device=device,
                device_memory=parse_size(device_memory),
                console=console,
            )
        else:
            found = pulls.pull(client, model, ref, out, console=console)
    total = sum(file.size for file in found.files)
    document = {
        "model": model,
        "ref": found.ref,
        "weights_digest": found.weights_digest,
        "folder": str(out),
        "files": [file.path for file in found.files],
        "size": total,
    }
    text = fields(
        [
            ("model", f"{model}@{found.ref}"),
            ("weights", found.weights_digest),
            ("folder", f"{out}, {len(found.files)} files, {size(total)}, verified"),
        ]
    )
    console.result(document, text, found.weights_digest)


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A pulled model.", show_default=False)],
    revision: Annotated[
        str | None, typer.Argument(metavar="[NS/NAME@REF]", help="What it must be.", show_default=False)
    ] = None,
    recompose: Annotated[bool, typer.Option("--recompose", help="Also compose base and patches here.")] = False,
    base: Base = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="PUBLIC.pem", help="Check the release's signature; the model's trusted key if not said."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that a folder holds the very files of a revision.

    Compares the weights digest of DIR and every file but README.md with the registry's, and names files that are not
    of the revision but may be loaded with it. With --recompose it also downloads base and patches, composes them in a
    temporary folder, compares that, and tells the registry what came out if you are a maintainer. With a key (here, or
    once by `crumb key trust`) a release has to be signed by it. Exit code 3 when anything differs.

    The revision is the one that DIR was pulled from, if not said.
    """
    from client.actions import pull as pulls
    from client.machine.config import trusted_key
    from client.machine.folders import read_source
    from client.machine.sources import resolve
    from client.terminal.addresses import parse_revision
    from registry.errors import NotFound

    console = Console(as_json, quiet)
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}.")
    if revision is None:
        source = read_source(folder)
        if source is None:
            raise NotFound(f"{folder} does not say what it was pulled from; name the revision: NS/NAME@REF.")
        revision = f"{source.model}@{source.ref}"
    if "@" not in revision:
        raise typer.BadParameter("say which revision: NS/NAME@VERSION, @base or @<recipe digest>.")
    if base is not None and not recompose:
        raise typer.BadParameter("--base is for --recompose.")
    model, ref = parse_revision(revision)
    key = key or trusted_key(model)
    with connect() as client:
        local = None if base is None else resolve(base, quiet=quiet)
        proof = pulls.verify(client, folder, model, ref, recompose=recompose, base=local, key=key, console=console)
    pairs = [("registry", proof.expected), ("folder", proof.found or "unreadable")]
    if proof.recomposed is not None:
        pairs.append(("recomposed", proof.recomposed))
    if proof.signed is not None:
        pairs.append(("signature", f"by {key}" if proof.signed else f"NOT by {key}, or not of these files"))
    pairs += [("different", plain(path)) for path in proof.different]
    pairs += [("stray", f"{plain(path)}, not of this revision, may be loaded") for path in proof.strays]
    verdict = _verdict(proof)
    console.result(
        {"ok": proof.ok, **asdict(proof)}, f"{fields(pairs)}\n{verdict}", "same" if proof.ok else "different"
    )
    if not proof.ok:
        raise typer.Exit(MISMATCH)


def _verdict(proof: "Proof") -> str:
    if proof.ok:
        return "The weights are the same, and so is every other file but README.md, which is not compared."
    if proof.signed is False:
        return "The SIGNATURE does not hold; do not use this model as that release."
    what = "files" if proof.found == proof.expected else "weights"
    return f"The {what} DIFFER; do not use this model as that revision."
