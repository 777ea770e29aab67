"""recipe export, recipe import: to mergekit and from it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Quiet, connect
from client.terminal.console import Console, fields

if TYPE_CHECKING:
    from client.mergekit.imports import Imported

group = typer.Typer(
    name="recipe", help="Recipes for mergekit, and from it.", no_args_is_help=True, rich_markup_mode=None
)


@group.command()
def export(
    revision: Annotated[str, typer.Argument(metavar="NS/NAME@REF", help="What to export.", show_default=False)],
    format: Annotated[str, typer.Option("--format", metavar="mergekit", help="For which tool.")] = "mergekit",
    out: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The file to write; stdout if not said.")
    ] = None,
    models: Annotated[
        bool, typer.Option("--models", help="Also make the models it names, in a folder models/ beside it.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a release or another composition as YAML that mergekit runs.

    mergekit merges whole models: the base, and for each patch the base with that patch alone. --models makes them, of
    which each is as large as the base. Comments in the YAML say where the result differs from that of `crumb pull`.
    """
    from client.actions.pull import find_snapshot
    from client.mergekit import export as mergekit
    from client.terminal.addresses import parse_revision
    from registry.files.durable import new_files

    console = Console(as_json, quiet)
    if format != "mergekit":
        raise typer.BadParameter(f"{format!r} is no format that is known; write mergekit.")
    if models and out is None:
        raise typer.BadParameter("--models needs -o FILE, beside which they are to be.")
    if out is not None and out.is_dir():
        raise typer.BadParameter(f"{out} is a folder; name the file to write.")
    folder = out.parent / mergekit.MODELS if out is not None and models else None
    model, ref = parse_revision(revision)
    with connect() as client:
        found = find_snapshot(client, model, ref, console)
        text = mergekit.export_recipe(client, found)
        if folder is not None:
            mergekit.make_models(client, found, folder, console=console)
    if out is not None:
        with new_files([out]) as (file,):
            file.write(text.encode("utf-8"))
    document = {
        "model": model,
        "ref": found.ref,
        "format": format,
        "file": None if out is None else str(out),
        "models": None if folder is None else str(folder),
        "text": text,
    }
    console.result(document, text.rstrip("\n") if out is None else f"Written to {out}.", str(out) if out else None)


@group.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="For mergekit.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to make.")],
    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="The base, in place of the one that FILE names.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make patches and a recipe of a mergekit configuration.

    Of merge_method breadcrumbs and task_arithmetic, with one value for each parameter. Models are paths or Hub ids
    org/name[@revision]. DIR gets a patch file for each of them, and recipe.json.
    """
    from dataclasses import asdict

    from client.mergekit.imports import import_recipe

    console = Console(as_json, quiet)
    done = import_recipe(file, out, base=base, console=console)
    console.result({"folder": str(out), **asdict(done), "compose": _apply(done, out)}, _text(done, out), done.recipe)


def _text(done: "Imported", out: Path) -> str:
    pairs = [("folder", str(out)), ("base", done.base), ("recipe", done.recipe)]
    pairs += [
        ("patch", f"{one.file} at {one.weight}, drop_bottom {one.drop_bottom}, drop_top {one.drop_top}")
        for one in done.patches
    ]
    pairs += [("note", note) for note in done.notes]
    pairs += [("compose", _apply(done, out)), ("share", f"crumb push {out}/FILE NS/NAME -m TITLE, for each patch")]
    return fields(pairs)


def _apply(done: "Imported", out: Path) -> str:
    import shlex

    files = [f"{out / one.file}{'' if one.weight == '1' else f':{one.weight}'}" for one in done.patches]
    return shlex.join(["crumb", "apply", done.base_model, *files, "-o", "merged", "--alpha", done.alpha])
