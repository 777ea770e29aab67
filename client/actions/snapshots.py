"""Snapshots: what a reference to a model stands for, found at the registry and held to what was asked."""

from client.actions.composing import compose, recipe_of
from client.api.client import Client
from client.terminal.addresses import is_digest, is_version, parse_choice
from client.terminal.console import Console, plain
from registry.breadcrumbs.formats.recipe import ALONE, Item, make_recipe
from registry.errors import DigestMismatch, Forbidden, NotComposed, NotFound, Unauthenticated
from registry.schemas import Snapshot

QUIET = Console(quiet=True)


def find_snapshot(client: Client, model: str, ref: str, console: Console = QUIET) -> Snapshot:
    """Return the snapshot that a reference names, and note the registry's warnings about it.

    Raises:
        NotFound: There is no such model or snapshot.
        NotComposed: The patch alone is not composed yet, and you may not ask for it.
        DigestMismatch: The registry answers with another snapshot, or its recipe has another digest than it says.
    """
    if ref.startswith("#"):
        ref = _compose_alone(client, model, ref, console)
    snapshot = client.snapshot(model, ref)
    for warning in snapshot.warnings:
        console.note(f"Warning: {plain(warning)}")
    recipe = recipe_of(snapshot)
    digest = recipe.digest if recipe is not None else None
    due = snapshot.release or digest or "base"  # what the answer must call itself
    answers = due.startswith(ref) if is_digest(ref) else due == ref or not (ref == "base" or is_version(ref))
    if snapshot.model != model or snapshot.ref != due or not answers:
        raise DigestMismatch(
            f"Asked for {model}@{ref}, the registry at {client.url} answers with {snapshot.model}@{snapshot.ref}, "
            f"whose recipe is {digest or 'none'}; do not trust this snapshot, and tell the operator."
        )
    return snapshot


def _compose_alone(client: Client, model: str, address: str, console: Console) -> str:
    """Return the recipe digest of the base with a patch alone, having it composed first if need be."""
    number, revision = parse_choice(address)
    patch = client.patch(model, number, revision)
    recipe = make_recipe(patch.base, ALONE, [Item(patch.sha256, "1")]).digest
    try:
        return client.snapshot(model, recipe).ref
    except NotFound:
        pass  # it is not composed yet
    try:
        return compose(client, model, [(number, "1", patch.revision)], alpha=ALONE, console=console).recipe.digest
    except (Unauthenticated, Forbidden) as why:
        raise NotComposed(
            f"{model}{address} is not composed yet, and you may not ask for it: {why} Log in with `crumb login` and a "
            f"token of the scope push, or ask a member of {model} to run `crumb pull {model}{address}`."
        ) from why
