"""pull, verify: the base, releases and other composed models."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from client.commands.options import Device, DeviceMemory, Json, Quiet, Snapshot, connect, parse_size
from client.terminal.console import Console, fields, plain

MISMATCH = 3  # exit code: verification failed
Base = Annotated[str | None, typer.Option("--base", metavar="MODEL", help="A local copy of the base (it is verified).")]


def pull(
    snapshot: Snapshot,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to pull into.")],
    as_patches: Annotated[
        bool | None,
        typer.Option(
            "--as-patches/--as-files",
            help="Compose here whatever moves for that, or download the files as they are; by default what moves less.",
            show_default=False,
        ),
    ] = None,
    base: Base = None,
    device: Device = "auto",
    device_memory: DeviceMemory = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download a model: a release, the base, or any composition.

    REF is a version like 1.2.0, a channel like stable, base, a recipe digest, or 8 or more of its first digits. Without
    REF: stable, else the newest release, else base. NS/NAME#N, and likewise @refs/pr/N, is the base with patch N alone
    at alpha 1; it is composed first if need be.

    If the base is on this machine (in the cache, in DIR, where it was pulled last, or at --base), only the patches that
    are not here are moved, where they are smaller than the weights, and the CPU composes the same files. --device and
    --device-memory are for --as-patches.

    Every byte is verified. If it is interrupted, run it again: it resumes. DIR may hold an earlier pull of the same
    model, which is brought up to date.
    """
    from client.actions.pulling.pull import pull as run
    from client.machine.sources import resolve
    from client.terminal.addresses import parse_pulled

    console = Console(as_json, quiet)
    model, ref = parse_pulled(snapshot)
    if base is not None and as_patches is False:
        raise typer.BadParameter("--base is not for --as-files.")
    with connect() as client:
        pulled = run(
            client,
            model,
            ref,
            out,
            as_patches=as_patches,
            base=None if base is None else resolve(base, quiet=quiet),
            device=device,
            device_memory=parse_size(device_memory),
            console=console,
        )
    found = pulled.snapshot
    document = {
        "model": model,
        "ref": found.ref,
        "weights_digest": found.weights_digest,
        "folder": str(out),
        "files": [file.path for file in found.files],
        "size": sum(file.size for file in found.files),
        "moved": pulled.moved,
        "saved": pulled.saved,
        "composed": pulled.composed,
    }
    rows = [row for row in pulled.rows() if row[0] != "warning"]  # warnings were noted
    console.result(document, fields(rows), found.weights_digest)


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A pulled model.", show_default=False)],
    snapshot: Annotated[
        str | None,
        typer.Argument(
            metavar="[NS/NAME@REF]", help="The model it should be; by default the one pulled.", show_default=False
        ),
    ] = None,
    recompose: Annotated[bool, typer.Option("--recompose", help="Also compose base and patches here.")] = False,
    base: Base = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="PUBLIC.pem",
            help="Check the release's signature; by default with the trusted key, if any.",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that a folder holds the very files of a snapshot.

    Compares the weights digest of DIR and every file except README.md with the registry's, and lists other files that
    may be loaded with them. With --recompose it also downloads base and patches, composes them in a temporary folder
    and compares that; if you are a maintainer, the registry is sent the digest. With a key (here, or once by `crumb key
    trust`) a release must be signed by it. Exit code 3 if anything differs.
    """
    from client.actions import verify as verifying
    from client.machine.config import trusted_key
    from client.machine.sources import resolve
    from client.terminal.addresses import parse_snapshot

    console = Console(as_json, quiet)
    verifying.check_there(folder)
    snapshot = snapshot or verifying.pulled_from(folder)
    if "@" not in snapshot:
        raise typer.BadParameter("name the snapshot: NS/NAME@VERSION, @base or @<recipe digest>.")
    if base is not None and not recompose:
        raise typer.BadParameter("--base is for --recompose.")
    model, ref = parse_snapshot(snapshot)
    key = key or trusted_key(model)
    with connect() as client:
        local = None if base is None else resolve(base, quiet=quiet)
        proof = verifying.verify(client, folder, model, ref, recompose=recompose, base=local, key=key, console=console)
    pairs = [(name, plain(value.replace("the key", str(key)))) for name, value in proof.rows() if name != "verdict"]
    document = {"ok": proof.ok, **asdict(proof)}
    console.result(document, f"{fields(pairs)}\n{proof.verdict}", "same" if proof.ok else "different")
    if not proof.ok:
        raise typer.Exit(MISMATCH)
