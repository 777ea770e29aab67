"""The library: what notebooks and scripts call, `pull`, `push`, `push_patch`, `diff`, `apply`, `verify` and `compose`.

Each takes addresses as they are written on the command line and calls the same action as the command of its name. Those
that need a registry take `client`, or `url` and `token`; else they use the login of `crumb login`, $CRUMB_URL and
$CRUMB_TOKEN, as the commands do.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from client.actions import composing
from client.actions import push as pushing
from client.actions import push_tuned as tuned_pushing
from client.actions import verify as verifying
from client.actions.patching import apply, diff
from client.actions.pulling import pull as pulling
from client.actions.results import Applied, ComposedModel, MadePatch, PulledModel, PushedPatch
from client.actions.verify import Proof
from client.api.calls import Item
from client.api.client import Client, connect
from client.machine.config import cache, trusted_key
from client.machine.sources import resolve
from client.terminal.addresses import check_model, decimal, parse_item, parse_pulled, parse_snapshot
from client.terminal.console import Console
from registry.breadcrumbs.comparing.alpha import AUTO
from registry.errors import InvalidRequest

__all__ = [
    "Applied",
    "ComposedModel",
    "MadePatch",
    "Proof",
    "PulledModel",
    "PushedPatch",
    "apply",
    "compose",
    "diff",
    "pull",
    "push",
    "push_patch",
    "verify",
]

PatchItem = int | str | tuple[int, str | float] | tuple[int, str | float, int | None]
"""A patch of a composition: its number; its address `N[.R][:WEIGHT]`; or number, weight and perhaps revision."""


def pull(
    model: str,
    folder: str | Path,
    *,
    as_patches: bool | None = None,
    base: str | Path | None = None,
    device: str = "auto",
    device_memory: int | None = None,
    client: Client | None = None,
    url: str | None = None,
    token: str | None = None,
    quiet: bool = False,
) -> PulledModel:
    """Download a model: a release, the base, or another composition; every byte is verified.

    Where the base is on this machine, only patches that are not here are moved if they are smaller than the weights,
    which are then composed here, to the same bytes; `moved` and `saved` of the result tell how much that was.

    Args:
        model: NS/NAME[@REF]; REF is a version, a channel, `base`, or 8 or more digits of a recipe digest. Or NS/NAME#N,
            the base with patch N alone, which is composed first if need be.
        folder: The folder to pull into; it may hold an earlier pull of the same model.
        as_patches: True to compose here whatever has to be moved for that; False to download the files as they are.
        base: A local copy of the base: a weight file, a model folder or a Hub id.
        device: With `as_patches`, where to compose: auto, cpu or cuda.
        device_memory: With `as_patches`, most bytes to use on a GPU.
        client: The registry; it stays open.
        url: The registry's address, in place of `client`.
        token: For `url`, or in place of the login's.
        quiet: Whether to show neither progress nor notes.

    Raises:
        NotFound: There is no such model or snapshot that you may see.
        WrongState: A file that no pull brought is in the way.
        DigestMismatch: The bytes or weights are not those that the registry names.
        StorageFull: The disk has no room for the files.
        Unauthenticated: No registry is in use.
    """
    name, ref = parse_pulled(model)
    if base is not None and as_patches is False:
        raise InvalidRequest("A local base is of no use with as_patches=False.", field="base")
    with _session(client, url, token) as session:
        return pulling.pull(
            session,
            name,
            ref,
            Path(folder),
            as_patches=as_patches,
            base=None if base is None else resolve(base, quiet=quiet),
            device=device,
            device_memory=device_memory,
            console=Console(quiet=quiet),
        )


def push(
    patch: str | Path,
    model: str,
    title: str,
    *,
    message: str = "",
    task: str | None = None,
    license: str | None = None,
    propose: bool = False,
    update: int | None = None,
    wait: bool = True,
    client: Client | None = None,
    url: str | None = None,
    token: str | None = None,
    quiet: bool = False,
) -> PushedPatch:
    """Contribute a patch file to a model; the same file again gives the same patch.

    Args:
        patch: The patch file.
        model: NS/NAME.
        title: One line on what it does.
        message: A longer description.
        task: What it is for, like math or code/python.
        license: Of the patch, like apache-2.0.
        propose: Whether to ask for review at once.
        update: Number of a patch of yours, to which this is the next revision.
        wait: Whether to wait for the registry's check.
        client: The registry; it stays open.
        url: The registry's address, in place of `client`.
        token: For `url`, or in place of the login's.
        quiet: Whether to show neither progress nor notes.

    Raises:
        NotFound: There is no such file or model.
        InvalidPatch: The file is not a patch, or the registry refused it.
        BaseMismatch: The patch is for another base.
        Unauthenticated: No registry is in use, or the token is missing or invalid.
        Forbidden: The token or your role does not allow it.
    """
    with _session(client, url, token) as session:
        pushed = pushing.push(
            session,
            Path(patch),
            check_model(model),
            title,
            message=message,
            task=task,
            license=license,
            propose=propose,
            update=update,
            wait=wait,
            console=Console(quiet=quiet),
        )
    return PushedPatch(pushed)


class Saveable(Protocol):
    """A model in memory, of transformers or PEFT, or anything else that saves itself as safetensors."""

    def save_pretrained(self, save_directory: str) -> Any:
        """Write the model into a folder."""


def push_patch(
    model_or_folder: Saveable | str | Path,
    model: str,
    title: str,
    *,
    base: str | Path | None = None,
    tuned_from: str | None = None,
    keep: str | Path | None = None,
    weights_only: bool = False,
    message: str = "",
    task: str | None = None,
    license: str | None = None,
    propose: bool = False,
    update: int | None = None,
    wait: bool = True,
    client: Client | None = None,
    url: str | None = None,
    token: str | None = None,
    quiet: bool = False,
    **options: Any,
) -> PushedPatch:
    """Contribute what fine-tuning changed: make the patch of a tuned model, and push it.

    Files beside its weights that differ from the base's are sent with it.

    An interrupted call resumes when it is made again; of a model in memory, that is its upload alone.

    Args:
        model_or_folder: The tuned model: a model in memory, of transformers or PEFT; a .safetensors file, a model
            folder or an adapter; or a Hub id `org/name[@revision]`. A model in memory is saved to a temporary folder.
        model: NS/NAME, where the patch goes.
        title: One line on what it does.
        base: A local copy of the base, or its Hub id; the registry's, from the cache if it is there, when None.
        tuned_from: What it was tuned from in place of the base: a release, like 1.2.0, or another revision.
        keep: Where to keep the patch file that is made.
        weights_only: Whether to leave out the files beside the weights, like a config or a chat template that differs.
        message: A longer description.
        task: What it is for, like math or code/python.
        license: Of the patch, like apache-2.0.
        propose: Whether to ask for review at once.
        update: Number of a patch of yours, to which this is the next revision.
        wait: Whether to wait for the registry's check.
        client: The registry; it stays open.
        url: The registry's address, in place of `client`.
        token: For `url`, or in place of the login's.
        quiet: Whether to show neither progress nor notes.
        **options: Options of `diff`, like `drop_bottom="0.9"`.

    Raises:
        NotFound: There is no such folder or model.
        CheckpointMismatch: The tuned model does not fit its base.
        BaseMismatch: The given base is not the one that the model is pinned to.
        InvalidPatch: Nothing changed, or the registry refused the patch.
        Unauthenticated: No registry is in use, or the token is missing or invalid.
        Forbidden: The token or your role does not allow it.
    """
    if unknown := sorted(options.keys() - tuned_pushing.OPTIONS):
        raise TypeError(f"push_patch() got an unexpected keyword argument {unknown[0]!r}; `diff` has no such option")
    check_model(model)
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(_session(client, url, token))
        tuned, drafts = model_or_folder, None
        if not isinstance(tuned, str | Path):
            session.whoami()  # a missing token is reported before gigabytes are written
            drafts = Path(stack.enter_context(_temporary_folder()))
            tuned = _saved(tuned, drafts / "model")
        pushed = tuned_pushing.push_tuned(
            session,
            tuned,
            model,
            title,
            base=base,
            tuned_from=tuned_from,
            keep=None if keep is None else Path(keep),
            weights_only=weights_only,
            drafts=drafts,
            options=options,
            message=message,
            task=task,
            license=license,
            propose=propose,
            update=update,
            wait=wait,
            console=Console(quiet=quiet),
        )
    return PushedPatch(pushed)


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Make a folder on the disk of the cache, which has room for models; /tmp may have none."""
    cache().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="saved-", dir=cache())


def _saved(model: Saveable, folder: Path) -> Path:
    if not callable(getattr(model, "save_pretrained", None)):
        raise InvalidRequest(
            f"A {type(model).__name__} cannot save itself; give a folder, a .safetensors file, or a model that has "
            "save_pretrained, as those of transformers and PEFT do.",
            field="model_or_folder",
        )
    model.save_pretrained(str(folder))
    return folder


def verify(
    folder: str | Path,
    model: str | None = None,
    *,
    recompose: bool = False,
    base: str | Path | None = None,
    key: str | Path | None = None,
    client: Client | None = None,
    url: str | None = None,
    token: str | None = None,
    quiet: bool = False,
) -> Proof:
    """Compare a folder with the registry; `ok` of the result says whether everything agrees.

    Args:
        folder: The folder.
        model: NS/NAME@REF that it should be; the one it was pulled from when None.
        recompose: Whether to compose base and patches here, too. The registry is sent the digest that comes out if you
            are a maintainer of the model.
        base: With `recompose`, a local copy of the base.
        key: The public key that the release must be signed by; the one trusted for the model, if any, when None.
        client: The registry; it stays open.
        url: The registry's address, in place of `client`.
        token: For `url`, or in place of the login's.
        quiet: Whether to show neither progress nor notes.

    Raises:
        NotFound: There is no such folder or snapshot, or the release is not signed.
        InvalidRequest: The model is named without REF, or the base has no recipe to compose.
        Unauthenticated: No registry is in use.
    """
    place = Path(folder)
    address = model or verifying.pulled_from(place)
    if "@" not in address:
        raise InvalidRequest(f"{address} can be any of its snapshots; write {address}@REF.", field="model")
    if base is not None and not recompose:
        raise InvalidRequest("A local base is only for recompose=True.", field="base")
    name, ref = parse_snapshot(address)
    with _session(client, url, token) as session:
        return verifying.verify(
            session,
            place,
            name,
            ref,
            recompose=recompose,
            base=None if base is None else resolve(base, quiet=quiet),
            key=trusted_key(name) if key is None else Path(key),
            console=Console(quiet=quiet),
        )


def compose(
    model: str,
    patches: Sequence[PatchItem],
    *,
    alpha: str | float = AUTO,
    method: str = "sum",
    allow_yanked: bool = False,
    client: Client | None = None,
    url: str | None = None,
    token: str | None = None,
    quiet: bool = False,
) -> ComposedModel:
    """Compose base + alpha * (patches combined by a method) at the registry, and wait for it.

    Args:
        model: NS/NAME.
        patches: Like `[1, (3, "0.5"), "4.2:0.25"]`: numbers, with a weight and a revision if need be, and in a tuple of
            four with factors of the weight by tensor: `(3, "1", None, [("layers.0.*", "0.5")])`.
        alpha: The scale of the whole, a decimal, or `auto` for the one that the patches give.
        method: sum, ties or mean.
        allow_yanked: Whether patches may be yanked ones.
        client: The registry; it stays open.
        url: The registry's address, in place of `client`.
        token: For `url`, or in place of the login's.
        quiet: Whether to show neither progress nor notes.

    Raises:
        NotFound: There is no such model or patch.
        InvalidRequest: A patch, a weight or alpha is malformed.
        JobFailed: The composition failed, for example because it overflows.
        Unauthenticated: No registry is in use, or the token is missing or invalid.
    """
    items = [_item(patch) for patch in patches]
    with _session(client, url, token) as session:
        composition = composing.compose(
            session,
            check_model(model),
            items,
            alpha=decimal(alpha),
            method=method,
            allow_yanked=allow_yanked,
            console=Console(quiet=quiet),
        )
    return ComposedModel(model, composition)


def _item(patch: PatchItem) -> Item:
    if isinstance(patch, tuple):
        number, weight, *more = patch
        return (number, decimal(weight), *more)  # type: ignore[return-value]
    return parse_item(str(patch))


@contextlib.contextmanager
def _session(client: Client | None, url: str | None, token: str | None) -> Iterator[Client]:
    if client is not None:
        if url is not None or token is not None:
            raise InvalidRequest("Give a client, or url and token, not both.", field="client")
        yield client
        return
    with connect(url, token) as session:
        yield session
