"""publisher add, list, remove: workflows that push without a token."""

from typing import Annotated

import typer

from client.commands.options import Json, Model, Quiet, connect
from client.terminal.console import Console, plain, table

group = typer.Typer(
    name="publisher",
    help="Workflows that push to a model by their own identity.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@group.command()
def add(
    model: Model,
    user: Annotated[
        str, typer.Argument(metavar="USER", help="The program as which it pushes; a new name.", show_default=False)
    ],
    github: Annotated[str | None, typer.Option("--github", metavar="ORG/NAME", help="A repository at GitHub.")] = None,
    gitlab: Annotated[str | None, typer.Option("--gitlab", metavar="PATH", help="A project at GitLab.")] = None,
    workflow: Annotated[
        str | None, typer.Option("--workflow", metavar="FILE", help="Its file, like train.yml or .gitlab-ci.yml.")
    ] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", metavar="NAME", help="Only in this environment.")
    ] = None,
    ref: Annotated[
        str | None, typer.Option("--ref", metavar="REF", help="Only of this ref: refs/heads/main, or main at GitLab.")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option("--issuer", metavar="URL", help="Another GitLab, or any OpenID issuer.")
    ] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option("--claim", metavar="NAME=VALUE", help="With another issuer: a claim that has to be there."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let a workflow push to a model.

    `crumb push` then needs no token there: it exchanges the identity that the service gives to the job.
    """
    from registry.errors import InvalidRequest

    if github and gitlab:
        raise InvalidRequest("Give --github or --gitlab, not both.")
    pairs = [text.partition("=") for text in claim or ()]
    if any(not mark for _, mark, _ in pairs):
        raise InvalidRequest("Write a claim as NAME=VALUE, like sub=job:train.")
    with connect() as client:
        made = client.create_publisher(
            model,
            "github" if github else "gitlab" if gitlab else "oidc",
            user,
            repository=github or gitlab,
            workflow=workflow,
            environment=environment,
            ref=ref,
            issuer=issuer,
            claims={name.strip(): value.strip() for name, _, value in pairs},
        )
        url = client.url
    text = f"{plain(made.user)} may push to {model}. In its job: CRUMB_URL={url} crumb push … {model}"
    Console(as_json, quiet).result(made, text, made.id)


@group.command(name="list")
def list_publishers(model: Model, as_json: Json = False, quiet: Quiet = False) -> None:
    """List the workflows that may push to a model."""
    with connect() as client:
        listed = client.publishers(model)
    rows = [
        (
            row.id,
            row.user,
            row.kind,
            plain(" ".join(f"{name}={value}" for name, value in {**row.claims, **row.pinned}.items())),
            f"{row.used_at.astimezone():%Y-%m-%d}" if row.used_at else "never",
        )
        for row in listed
    ]
    text = table(("id", "pushes as", "kind", "claims", "last used"), rows) if rows else "No workflow may push."
    Console(as_json, quiet).result(listed, text, "\n".join(row.id for row in listed))


@group.command()
def remove(
    model: Model,
    publisher: Annotated[str, typer.Argument(metavar="ID", help="Its id, as the list shows it.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Keep a workflow from pushing, with immediate effect."""
    with connect() as client:
        client.remove_publisher(model, publisher)
    Console(as_json, quiet).result({"id": publisher}, f"{plain(publisher)} may not push any more.", publisher)
