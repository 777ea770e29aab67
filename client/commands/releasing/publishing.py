"""publish: a release on the Hugging Face Hub."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from client.commands.options import Json, Quiet, connect
from client.terminal.console import Console, fields


def publish(
    release: Annotated[str, typer.Argument(metavar="NS/NAME@VERSION", help="The release.", show_default=False)],
    repo: Annotated[
        str, typer.Argument(metavar="hf://ORG/NAME", help="The repository on the Hub.", show_default=False)
    ],
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TAG", help="Name of the tag there; by default v1.2.0 for 1.2.0.")
    ] = None,
    no_tag: Annotated[bool, typer.Option("--no-tag", help="Set no tag.")] = False,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", metavar="ORG/NAME", help="The base on the Hub; by default where it came from."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Refuse a public repository.")] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Allow a public repository even if the model is private.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove files there even if no release put them there.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Pull into this folder, and keep it.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish a release on the Hugging Face Hub.

    Makes the repository if it does not exist, and one commit that makes its files those of the release, with the card
    and breadcrumbs.json, which has what `crumb verify` needs. Files of an earlier release are removed. If it is
    interrupted, run it again: it resumes. After success another run changes nothing.

    The token is that of the Hub: `hf auth login`, or HF_TOKEN. HF_ENDPOINT names another Hub.
    """
    from client.hub import publish as publishes
    from client.terminal.addresses import parse_snapshot

    console = Console(as_json, quiet)
    if "@" not in release:
        raise typer.BadParameter("name the release: NS/NAME@VERSION.")
    if no_tag and tag is not None:
        raise typer.BadParameter("--tag and --no-tag exclude each other.")
    model, ref = parse_snapshot(release)
    with connect() as client:
        done = publishes.publish(
            client,
            model,
            ref,
            repo,
            tag=tag,
            tagged=not no_tag,
            base_model=base_model,
            private=private,
            public=public,
            replace=replace,
            keep=keep,
            console=console,
        )
    pairs = [
        ("published", done.url),
        ("commit", done.commit),
        ("tag", done.tag or "none"),
        ("files", f"{len(done.sent)} sent, {len(done.unchanged)} unchanged, {len(done.removed)} removed"),
    ]
    console.result(asdict(done), fields(pairs), done.commit)
