"""release cut, edit, publish, sign, yank, show, list, diff: versions that users rely on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Limit, Model, NoWait, Quiet, connect
from client.terminal.console import Console, fields, plain, table

if TYPE_CHECKING:
    from client.api.client import Client
    from registry.schemas import Provenance, Release

group = typer.Typer(
    name="release", help="Cut, publish, yank and compare releases.", no_args_is_help=True, rich_markup_mode=None
)
Version = Annotated[str, typer.Argument(metavar="VERSION", help="Like 1.2.0.", show_default=False)]
Key = Annotated[Path | None, typer.Option("--sign", metavar="KEY.pem", help="Sign it with this private key.")]


@group.command()
def cut(
    model: Model,
    version: Version,
    patches: Annotated[
        list[str] | None, typer.Argument(metavar="[N[:W]]…", help="Patches, weight 1 if not said.", show_default=False)
    ] = None,
    start: Annotated[str | None, typer.Option("--from", metavar="REF", help="Start from this revision.")] = None,
    add: Annotated[list[str] | None, typer.Option("--add", metavar="N[:W]", help="Also this patch.")] = None,
    without: Annotated[list[str] | None, typer.Option("--without", metavar="N", help="But not this one.")] = None,
    alpha: Annotated[
        str | None, typer.Option("--alpha", metavar="A", help="Scale of the whole sum; that of --from, or 0.3.")
    ] = None,
    allow_yanked: Annotated[bool, typer.Option("--allow-yanked", help="Even of patches that were yanked.")] = False,
    no_wait: NoWait = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Cut a release of accepted patches, and have it composed.

    The version is checked against what changed: minor for a patch added or strengthened, patch for one removed or
    weakened. Cutting the same version again, until it is published, replaces it.
    """
    from client.terminal.addresses import parse_item, parse_number

    console = Console(as_json, quiet)
    with connect() as client:
        made = client.cut_release(
            model,
            version,
            [parse_item(text) for text in patches or ()],
            from_ref=start,
            add=[parse_item(text) for text in add or ()],
            without=[parse_number(text) for text in without or ()],
            alpha=alpha,
            allow_yanked=allow_yanked,
        )
        if made.job is not None and not no_wait:
            with console.waiting(f"composing {version}") as progress:
                client.wait(made.job, progress=progress, idle=console.idle)
            made = client.release(model, version)
    _print(console, made)


@group.command()
def edit(
    model: Model,
    version: Version,
    changelog: Annotated[
        Path | None, typer.Option("--changelog", metavar="F", help="Take the changelog from this file.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option("--card", metavar="README.md", help="Take the model card from this file.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Edit changelog or card before publishing; without an option, print both as they are."""
    from client.machine.sources import read_text

    console = Console(as_json, quiet)
    with connect() as client:
        if changelog is None and card is None:
            found, text = client.release(model, version), client.release_card(model, version)
            words = plain(f"{found.changelog}\n{text}", lines=True)
            console.result({"changelog": found.changelog, "card": text}, words)
            return
        made = client.edit_release(
            model,
            version,
            changelog=None if changelog is None else read_text(changelog, 2**16),
            card=None if card is None else read_text(card, 2**19),
        )
    _print(console, made)


@group.command()
def publish(
    model: Model,
    version: Version,
    recompose: Annotated[
        bool, typer.Option("--recompose", help="First compose it here, too, and tell the registry what came out.")
    ] = False,
    sign: Key = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish a release, for ever.

    Two who composed it must agree: two workers, or one and you, with --recompose.
    """
    from client.actions.pull import recompose as run

    console = Console(as_json, quiet)
    with connect() as client:
        if recompose:
            run(client, model, version, console=console)
        done = client.publish_release(model, version)
        if sign is not None:
            done = _sign(client, model, version, sign)
    _print(console, done)


@group.command()
def sign(
    model: Model,
    version: Version,
    key: Annotated[Path, typer.Option("--key", metavar="KEY.pem", help="Your private key.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Sign the manifest of a published release, by OpenSSF model-signing."""
    with connect() as client:
        done = _sign(client, model, version, key)
    _print(Console(as_json, quiet), done)


@group.command()
def yank(
    model: Model,
    version: Version,
    message: Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Why; it has to be said.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Yank a release: it stays pullable by its version, with a warning, and no channel moves to it."""
    with connect() as client:
        done = client.yank_release(model, version, message)
    console = Console(as_json, quiet)
    if done.channels:
        console.note(f"Still pointing at it: {plain(', '.join(done.channels))}; see `crumb channel rollback`.")
    _print(console, done)


@group.command()
def show(model: Model, version: Version, as_json: Json = False, quiet: Quiet = False) -> None:
    """Show a release: what it holds, who built it, what keeps it from being published."""
    with connect() as client:
        found = client.release(model, version)
    _print(Console(as_json, quiet), found)


@group.command(name="list")
def list_releases(model: Model, limit: Limit = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """List the releases of a model, newest version first."""
    with connect() as client:
        found = list(client.releases(model, limit=limit))
    rows = [
        (
            plain(release.version),
            release.state,
            str(len(release.recipe.patches)),
            ", ".join(release.channels),
            "yes" if release.signed else "",
            f"{release.published_at.astimezone():%Y-%m-%d}" if release.published_at else "",
        )
        for release in found
    ]
    heads = ("version", "state", "patches", "channels", "signed", "published")
    text = table(heads, rows, right=(2,)) if rows else f"{model} has no releases."
    Console(as_json, quiet).result(found, text, "\n".join(release.version for release in found))


@group.command()
def diff(
    model: Model,
    before: Annotated[str, typer.Argument(metavar="A", help="A revision.", show_default=False)],
    after: Annotated[str, typer.Argument(metavar="B", help="Another.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what changed between two revisions, patch by patch."""
    with connect() as client:
        found = client.compare(model, before, after)
    lines = [f"+ #{item.number}.{item.revision} at {item.weight}  {plain(item.title)}" for item in found.added]
    lines += [f"- #{item.number}.{item.revision}  {plain(item.title)}" for item in found.removed]
    lines += [f"~ #{one.number} {one.before} -> {one.after}  {plain(one.title)}" for one in found.changed]
    text = "\n".join(lines) or "They are made of the same."
    Console(as_json, quiet).result(found, f"{text}\nversion step: {found.bump}", found.bump)


def show_provenance(client: "Client", model: str, ref: str, console: Console) -> None:
    """Print where a release comes from, by its version or a channel; with --json, the in-toto statement."""
    from client.actions.pull import find_snapshot
    from registry.errors import InvalidRequest

    version = find_snapshot(client, model, ref, console).release
    if version is None:
        raise InvalidRequest(f"{model}@{ref} is no release; `crumb release list {model}` shows them.", field="ref")
    found = client.provenance(model, version)
    console.result(found.statement, _provenance(found), found.release.weights_digest)


def _sign(client: "Client", model: str, version: str, key: Path) -> "Release":
    from client.machine.signatures import sign_manifest

    return client.sign_release(model, version, sign_manifest(client.manifest(model, version), key))


def _print(console: Console, release: "Release") -> None:
    console.result(release, _text(release), f"{release.version} {release.state}")


def _text(release: "Release") -> str:
    items = ", ".join(
        f"#{item.number}.{item.revision}" + (f":{item.weight}" if item.weight != "1" else "")
        for item in sorted(release.recipe.patches, key=lambda item: item.number)
    )
    pairs = [
        ("release", f"{release.model}@{plain(release.version)}, {release.state}"),
        ("patches", f"{items or 'none'} at alpha {release.recipe.alpha}"),
        ("recipe", release.recipe.digest),
        ("weights", release.weights_digest or "-"),
        ("cut", f"by {plain(release.creator)}, {release.created_at.astimezone():%Y-%m-%d %H:%M %z}"),
    ]
    pairs += [
        ("built", f"by {plain(build.builder)} on {plain(build.device)}: {build.weights_digest[:19]}…")
        for build in release.builds
    ]
    if release.published_at:
        when = f"{release.published_at.astimezone():%Y-%m-%d %H:%M %z}"
        pairs.append(("published", f"by {plain(release.publisher or '?')}, {when}"))
        pairs.append(("manifest", f"{release.manifest_digest}, {'signed' if release.signed else 'not signed'}"))
    if release.channels:
        pairs.append(("channels", plain(", ".join(release.channels))))
    if release.yank_reason is not None:
        pairs.append(("yanked", plain(release.yank_reason)))
    pairs += [("warning", plain(text)) for text in release.warnings]
    pairs += [("missing", plain(text)) for text in release.missing]
    if release.state == "candidate" and not release.missing:
        pairs.append(("next", f"crumb release publish {release.model} {plain(release.version)}"))
    return fields(pairs)


def _provenance(found: "Provenance") -> str:
    release = found.release
    lines = [_text(release), "", f"base {release.recipe.base}"]
    for item in sorted(release.recipe.patches, key=lambda item: item.number):
        approvals = found.approvals.get(f"{item.number}.{item.revision}", [])
        by = f", approved by {plain(', '.join(approvals))}" if approvals else ""
        lines.append(
            f"patch #{item.number}.{item.revision} by {plain(item.author or '?')}{by}: {plain(item.title)}\n"
            f"  weight {item.weight}, licence {plain(item.license or 'not stated')}, sha256 {item.sha256}"
        )
    lines += [
        f"{plain(row.metric)} {row.value:g} on {plain(row.dataset)}, measured by {plain(row.user)}"
        for row in found.evaluations
    ]
    return "\n".join(lines)
