"""recipe export, recipe import, recipe delete: recipes to and from mergekit; compositions that are not needed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Quiet, connect
from client.terminal.console import Console, fields

if TYPE_CHECKING:
    from client.mergekit.imports import Imported

group = typer.Typer(
    name="recipe",
    help="Convert recipes to and from mergekit; delete compositions.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@group.command()
def export(
    snapshot: Annotated[str, typer.Argument(metavar="NS/NAME@REF", help="What to export.", show_default=False)],
    format: Annotated[str, typer.Option("--format", metavar="mergekit", help="The tool to export for.")] = "mergekit",
    out: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The file to write; by default stdout.")
    ] = None,
    models: Annotated[
        bool, typer.Option("--models", help="Also make the models that the file names, in a folder models/ beside it.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a release or another composition as YAML that mergekit runs.

    mergekit merges whole models: the base, and for each patch the base with that patch alone. --models makes them; each
    is as large as the base. Comments in the YAML explain where the result differs from that of `crumb pull`.
    """
    from client.actions.snapshots import find_snapshot
    from client.mergekit import export as mergekit
    from client.terminal.addresses import parse_snapshot
    from registry.files.durable import new_files

    console = Console(as_json, quiet)
    if format != "mergekit":
        raise typer.BadParameter(f"{format!r} is not a known format; write mergekit.")
    if models and out is None:
        raise typer.BadParameter("--models needs -o FILE: the models are made beside it.")
    if out is not None and out.is_dir():
        raise typer.BadParameter(f"{out} is a folder; name the file to write.")
    folder = out.parent / mergekit.MODELS if out is not None and models else None
    model, ref = parse_snapshot(snapshot)
    with connect() as client:
        exported = find_snapshot(client, model, ref, console)
        text = mergekit.export_recipe(client, exported)
        if folder is not None:
            mergekit.make_models(client, exported, folder, console=console)
    if out is not None:
        with new_files([out]) as (file,):
            file.write(text.encode("utf-8"))
    document = {
        "model": model,
        "ref": exported.ref,
        "format": format,
        "file": None if out is None else str(out),
        "models": None if folder is None else str(folder),
        "text": text,
    }
    console.result(document, text.rstrip("\n") if out is None else f"Written to {out}.", str(out) if out else None)


@group.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="A mergekit configuration.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to make.")],
    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="The base, instead of the one that FILE names.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make patches and a recipe from a mergekit configuration.

    Takes merge_method breadcrumbs, breadcrumbs_ties, ties, task_arithmetic and linear, with one value for each
    parameter, but weights also by `filter`. Models are paths or Hub ids org/name[@revision]. DIR gets a patch file for
    each of them, and recipe.json.
    """
    from dataclasses import asdict

    from client.mergekit.imports import import_recipe

    console = Console(as_json, quiet)
    imported = import_recipe(file, out, base=base, console=console)
    document = {"folder": str(out), **asdict(imported), "compose": _apply(imported, out)}
    console.result(document, _text(imported, out), imported.recipe)


@group.command()
def delete(
    snapshot: Annotated[
        str, typer.Argument(metavar="NS/NAME@RECIPE", help="8 or more digits of a recipe.", show_default=False)
    ],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Delete the files of a composition, which then no longer count for whoever asked for it.

    You may if you asked for it, or as a maintainer, while no release and no job holds it. The recipe stays: composing
    it again gives the same bytes.
    """
    from client.terminal.addresses import parse_snapshot
    from registry.errors import InvalidRequest

    model, ref = parse_snapshot(snapshot)
    with connect() as client:
        found = client.snapshot(model, ref)
        if found.recipe is None:
            raise InvalidRequest(f"{model}@{ref} is a base, not a composition.")
        client.delete_composition(model, found.recipe.digest)
        digest = found.recipe.digest
    document = {"model": model, "recipe": digest}
    Console(as_json, quiet).result(document, f"Deleted the composition {digest[:12]} of {model}.", digest)


def _text(imported: "Imported", out: Path) -> str:
    pairs = [("folder", str(out)), ("base", imported.base), ("recipe", imported.recipe)]
    pairs += [
        ("patch", f"{patch.file} at {patch.weight}, drop_bottom {patch.drop_bottom}, drop_top {patch.drop_top}")
        for patch in imported.patches
    ]
    pairs += [("note", note) for note in imported.notes]
    pairs += [("compose", _apply(imported, out)), ("share", f"crumb push {out}/FILE NS/NAME -m TITLE, for each patch")]
    return fields(pairs)


def _apply(imported: "Imported", out: Path) -> str:
    import shlex

    files = [f"{out / patch.file}{'' if patch.weight == '1' else f':{patch.weight}'}" for patch in imported.patches]
    how = ["--alpha", imported.alpha, *(["--method", imported.method] if imported.method != "sum" else [])]
    for position, patch in enumerate(imported.patches, 1):
        for glob, factor in patch.where:
            how += ["--where", f"{position}:{glob}={factor}"]
    return shlex.join(["crumb", "apply", imported.base_model, *files, "-o", "merged", *how])
