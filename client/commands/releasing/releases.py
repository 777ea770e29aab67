"""release cut, edit, publish, sign, yank, pin, show, list, diff: the versions of a model."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Limit, Model, NoWait, Quiet, Where, connect
from client.terminal.console import Console, fields, plain, table
from client.terminal.recipes import describe_alpha, describe_recipe, weight_of

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
        list[str] | None,
        typer.Argument(metavar="[N[:W]]…", help="Patches; the weight is 1 by default.", show_default=False),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="REF", help="Start from the patches of this snapshot, like main or 1.0.0."),
    ] = None,
    add: Annotated[
        list[str] | None, typer.Option("--add", metavar="N[:W]", help="Add this patch; may be repeated.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="N", help="Leave out this patch; may be repeated.")
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option(
            "--alpha", metavar="DECIMAL|auto", help="Scale of all patches; by default that of --from, or auto."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", metavar="sum|ties|mean", help="How patches combine; by default that of --from, or sum."
        ),
    ] = None,
    where: Where = None,
    files_of: Annotated[
        list[str] | None,
        typer.Option(
            "--files-of",
            metavar="N",
            help="Take the files that came with this patch; may be repeated. By default those that --from took.",
        ),
    ] = None,
    allow_yanked: Annotated[bool, typer.Option("--allow-yanked", help="Allow patches that were yanked.")] = False,
    no_wait: NoWait = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Cut a release of accepted patches; the registry composes it.

    The version must match what changed: a minor step for a patch added or strengthened, a patch step for one removed or
    weakened. Until it is published, cutting the same version again replaces it.
    """
    from client.actions.composing import when_compared
    from client.actions.jobs import watch
    from client.terminal.addresses import parse_items, parse_number

    console = Console(as_json, quiet)
    named = parse_items([*(patches or ()), *(add or ())], where)
    with connect() as client:
        ask = partial(
            client.cut_release,
            model,
            version,
            named[: len(patches or ())],
            from_ref=start,
            add=named[len(patches or ()) :],
            without=[parse_number(text) for text in without or ()],
            alpha=alpha,
            method=method,
            allow_yanked=allow_yanked,
            files_of=[parse_number(text) for text in files_of] if files_of else None,
        )
        release = when_compared(client, ask, console=console)
        if release.job is not None and not no_wait:
            watch(client, release.job, f"composing {version}", console)
            release = client.release(model, version).model_copy(update={"alpha_rule": release.alpha_rule})
    _print(console, release)


@group.command()
def edit(
    model: Model,
    version: Version,
    changelog: Annotated[
        Path | None, typer.Option("--changelog", metavar="F", help="A file with the changelog.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option("--card", metavar="README.md", help="A file with the model card.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Edit the changelog or the card before publishing.

    Without an option, prints both.
    """
    from client.machine.sources import read_text
    from registry.files.beside import CARD_BYTES

    console = Console(as_json, quiet)
    with connect() as client:
        if changelog is None and card is None:
            release, text = client.release(model, version), client.release_card(model, version)
            words = plain(f"{release.changelog}\n{text}", lines=True)
            console.result({"changelog": release.changelog, "card": text}, words)
            return
        release = client.edit_release(
            model,
            version,
            changelog=None if changelog is None else read_text(changelog, 2**16),
            card=None if card is None else read_text(card, CARD_BYTES),
        )
    _print(console, release)


@group.command()
def publish(
    model: Model,
    version: Version,
    recompose: Annotated[
        bool, typer.Option("--recompose", help="First compose it here, too, and report the digest.")
    ] = False,
    sign: Key = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish a release; this cannot be undone.

    Two independent compositions must have the same digest: those of two workers, or of one worker and yours, with
    --recompose.
    """
    from client.actions.verify import recompose as run

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
    """Sign a published release.

    The signature is over its manifest, by OpenSSF model-signing.
    """
    with connect() as client:
        done = _sign(client, model, version, key)
    _print(Console(as_json, quiet), done)


@group.command()
def yank(
    model: Model,
    version: Version,
    message: Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Why; required.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Yank a release.

    Its version can still be pulled, with a warning, and no channel moves to it.
    """
    with connect() as client:
        done = client.yank_release(model, version, message)
    console = Console(as_json, quiet)
    if done.channels:
        console.note(f"Still pointing at it: {plain(', '.join(done.channels))}; see `crumb channel rollback`.")
    _print(console, done)


@group.command()
def pin(
    model: Model,
    version: Version,
    end: Annotated[bool, typer.Option("--end", help="No longer keep it.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Keep the weights of a release on the server's disk.

    Those of other releases go when room is needed, but for what `main` and channels point at; they are composed when
    they are read, to the same bytes.
    """
    with connect() as client:
        done = client.pin_release(model, version, pinned=not end)
    _print(Console(as_json, quiet), done)


@group.command()
def show(model: Model, version: Version, as_json: Json = False, quiet: Quiet = False) -> None:
    """Show a release.

    Its patches, who built it, and what is missing before it can be published.
    """
    with connect() as client:
        release = client.release(model, version)
    _print(Console(as_json, quiet), release)


@group.command(name="list")
def list_releases(model: Model, limit: Limit = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """List the releases of a model, newest version first."""
    with connect() as client:
        releases = list(client.releases(model, limit=limit))
    rows = [
        (
            plain(release.version),
            release.state,
            str(len(release.recipe.patches)),
            ", ".join(release.channels),
            "yes" if release.signed else "",
            f"{release.published_at.astimezone():%Y-%m-%d}" if release.published_at else "",
        )
        for release in releases
    ]
    heads = ("version", "state", "patches", "channels", "signed", "published")
    text = table(heads, rows, right=(2,)) if rows else f"{model} has no releases."
    Console(as_json, quiet).result(releases, text, "\n".join(release.version for release in releases))


@group.command()
def diff(
    model: Model,
    before: Annotated[str, typer.Argument(metavar="A", help="A snapshot, like 1.0.0.", show_default=False)],
    after: Annotated[str, typer.Argument(metavar="B", help="Another snapshot, like 1.1.0.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what changed between two snapshots, patch by patch, and in files beside the weights."""
    with connect() as client:
        changes = client.compare(model, before, after)
    lines = [f"+ #{item.number}.{item.revision} at {item.weight}  {plain(item.title)}" for item in changes.added]
    lines += [f"- #{item.number}.{item.revision}  {plain(item.title)}" for item in changes.removed]
    lines += [f"~ #{row.number} {row.before} -> {row.after}  {plain(row.title)}" for row in changes.changed]
    lines = lines or ["They have the same recipe."]
    signs = {True: "+", False: "-", None: "~"}
    lines += [
        f"{signs[None if file.before and file.after else file.after is not None]} {plain(file.path)}"
        for file in changes.files
    ]
    text = "\n".join(lines)
    Console(as_json, quiet).result(changes, f"{text}\nversion step: {changes.bump}", changes.bump)


def show_provenance(client: "Client", model: str, ref: str, console: Console) -> None:
    """Print where a release comes from, named by version or channel; with --json, the in-toto statement."""
    from client.actions.snapshots import find_snapshot
    from registry.errors import InvalidRequest

    version = find_snapshot(client, model, ref, console).release
    if version is None:
        raise InvalidRequest(f"{model}@{ref} is not a release; `crumb release list {model}` shows them.", field="ref")
    provenance = client.provenance(model, version)
    console.result(provenance.statement, _provenance(provenance), provenance.release.weights_digest)


def _sign(client: "Client", model: str, version: str, key: Path) -> "Release":
    from registry.documents.signing.bundles import sign_manifest

    return client.sign_release(model, version, sign_manifest(client.manifest(model, version), key))


def _print(console: Console, release: "Release") -> None:
    console.result(release, _text(release), f"{release.version} {release.state}")


def _text(release: "Release") -> str:
    pairs = [
        ("release", f"{release.model}@{plain(release.version)}, {release.state}"),
        ("patches", describe_recipe(release.recipe)),
        ("recipe", release.recipe.digest),
        ("weights", release.weights_digest or "-"),
        ("cut", f"by {plain(release.creator)}, {release.created_at.astimezone():%Y-%m-%d %H:%M %z}"),
    ]
    pairs += [(f"#{file.patch}.{file.revision}", f"gives it {plain(file.path)}") for file in release.taken_files]
    if release.alpha_rule is not None:
        pairs.append(("alpha", describe_alpha(release.recipe.alpha, release.alpha_rule)))
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
    if release.pinned:
        pairs.append(("pinned", "its weights stay on the server's disk"))
    if release.yank_reason is not None:
        pairs.append(("yanked", plain(release.yank_reason)))
    pairs += [("warning", plain(text)) for text in release.warnings]
    pairs += [("missing", plain(text)) for text in release.missing]
    if release.state == "candidate" and not release.missing:
        pairs.append(("next", f"crumb release publish {release.model} {plain(release.version)}"))
    return fields(pairs)


def _provenance(provenance: "Provenance") -> str:
    release = provenance.release
    lines = [_text(release), "", f"base {release.recipe.base}"]
    for item in sorted(release.recipe.patches, key=lambda item: item.number):
        approvals = provenance.approvals.get(f"{item.number}.{item.revision}", [])
        by = f", approved by {plain(', '.join(approvals))}" if approvals else ""
        lines.append(
            f"patch #{item.number}.{item.revision} by {plain(item.author or '?')}{by}: {plain(item.title)}\n"
            f"  weight {weight_of(item)}, licence {plain(item.license or 'not stated')}, sha256 {item.sha256}"
        )
    lines += [
        f"{plain(row.metric)} {row.value:g} on {plain(row.dataset)}, measured by {plain(row.user)}"
        for row in provenance.evaluations
    ]
    return "\n".join(lines)
