"""model create, model list, model show."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Author, Json, Limit, Model, NoWait, Quiet, connect
from client.terminal.console import Console, fields, plain, size, table

if TYPE_CHECKING:
    from registry import schemas

group = typer.Typer(name="model", help="Create, list and show models.", no_args_is_help=True, rich_markup_mode=None)


@group.command()
def create(
    name: Model,
    base: Annotated[
        str, typer.Option("--base", metavar="DIR", help="Folder, file, Hub id, or hf://ORG/NAME@REV to stay there.")
    ],
    card: Annotated[
        Path | None, typer.Option("--card", metavar="README.md", help="The model card, in place of the base's.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Only members may see it.")] = False,
    license: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="Of the base; that of its card if not said.")
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Of hf://ORG/NAME@REV: the registry keeps the weights, too.")
    ] = False,
    no_wait: NoWait = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Create a model pinned to a base.

    Sends every file of the folder but hidden ones and pickles. Run again after a kill, it goes on where it was.
    A base like hf://org/name@revision is fetched by the registry, and its weights stay at the Hub unless copied.
    """
    from client.actions.push import create_any

    console = Console(as_json, quiet)
    with connect() as client:
        made = create_any(
            client,
            name,
            base,
            card=card,
            copy=copy,
            private=private,
            license=license,
            wait=not no_wait,
            console=console,
        )
    text = f"Created {made.name}.\n{_fields(made)}" if made.base else f"{made.name} is being imported."
    console.result(made, text, made.base or made.name)


@group.command(name="list")
def list_models(
    search: Annotated[str | None, typer.Option("--search", metavar="TEXT", help="Only names holding this.")] = None,
    author: Author = None,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List models by name."""
    with connect() as client:
        found = list(client.models(search=search, author=author, limit=limit))
    rows = [
        (
            model.name,
            model.state,
            str(model.patches),
            f"{model.parameters:,}" if model.parameters is not None else "-",
            size(model.size),
            f"{model.created_at.astimezone():%Y-%m-%d}",
        )
        for model in found
    ]
    heads = ("model", "state", "patches", "parameters", "size", "created")
    text = table(heads, rows, right=(2, 3, 4)) if rows else "There are no such models."
    Console(as_json, quiet).result(found, text, "\n".join(model.name for model in found))


@group.command()
def show(name: Model, as_json: Json = False, quiet: Quiet = False) -> None:
    """Show a model and its card."""
    with connect() as client:
        found = client.model(name)
    text = _fields(found)
    if found.card and found.card.strip():
        text += "\n\n" + plain(found.card.strip(), lines=True)
    Console(as_json, quiet).result(found, text, found.base or "")


@group.command(name="set")
def set_model(
    name: Model,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Whether only members may see it.")] = None,
    license: Annotated[str | None, typer.Option("--license", metavar="ID", help="Of the base.")] = None,
    approvals: Annotated[
        int | None, typer.Option("--approvals", metavar="N", min=0, max=10, help="Approvals that accepting needs.")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="DATASET:METRIC", help="What patches and releases must have measured."),
    ] = None,
    require_none: Annotated[bool, typer.Option("--require-none", help="Nothing need be measured.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Change who sees a model, its licence, and what accepting a patch needs."""
    with connect() as client:
        done = client.update_model(
            name,
            visibility=None if private is None else "private" if private else "public",
            license=license,
            min_approvals=approvals,
            required_evaluations=[] if require_none else require or None,
        )
    Console(as_json, quiet).result(done, _fields(done), done.name)


def _fields(model: "schemas.Model") -> str:
    return fields(
        [
            ("model", model.name),
            ("creator", plain(model.creator)),
            ("visible", "to members" if model.visibility == "private" else "to all"),
            ("you are", model.role or "-"),
            ("licence", plain(model.license or "not stated")),
            ("accepting", _policy(model)),
            ("state", model.state),
            ("base", model.base or "-"),
            *([("source", plain(_source(model)))] if model.source else []),
            ("parameters", f"{model.parameters:,}" if model.parameters is not None else "-"),
            ("size", size(model.size)),
            ("patches", str(model.patches)),
            ("created", f"{model.created_at.astimezone():%a %b %d %H:%M:%S %Y %z}"),
        ]
    )


def _source(model: "schemas.Model") -> str:
    return f"{model.source} ({'its weights stay there' if model.by_reference else 'copied'})"


def _policy(model: "schemas.Model") -> str:
    needs = [
        "1 approval" if model.min_approvals == 1 else f"{model.min_approvals} approvals",
        *map(plain, model.required_evaluations),
    ]
    return "needs " + ", ".join(needs)
