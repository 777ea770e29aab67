"""Live models: a loaded module that switches between the revisions of a model at a registry, in place."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from client.actions.composing import canonical, fetch_base, open_patches
from client.actions.results import ComposedModel
from client.actions.snapshots import find_snapshot
from client.api.client import Client, connect
from client.live.resident_base import ResidentBase
from client.live.weights import LiveWeights
from client.machine.known_files import checked_base
from client.machine.sources import resolve
from client.terminal.addresses import decimal, parse_pulled
from client.terminal.console import Console
from registry.breadcrumbs.composing.variances import tell_negative
from registry.breadcrumbs.formats.checkpoint import Checkpoint, open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.formats.recipe import ALONE, Recipe, normalise_decimal
from registry.errors import BaseMismatch, InvalidRequest, NotFound
from registry.schemas import Recipe as ListedRecipe
from registry.schemas import RecipeItem

FILE, MEMORY = "file", "memory"
HOLD_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Switched:
    """What a switch did.

    Args:
        ref: What the model is now: a version, `base`, or the digest of a recipe.
        written: Bytes of the tensors that changed, which alone were read and written.
        seconds: How long that took, without verifying.
        verified: The weights digest of the whole model, if it was asked for.
    """

    ref: str
    written: int
    seconds: float
    verified: str | None = None


class LiveModel:
    """A loaded model that takes any recipe of its patches in place, to the very bits of the release.

    Only tensors that differ between what it holds and what it is to hold are read and written. Use it with `with`, or
    close it at the end; the module stays as it is then. Nothing may compute with the module during a call.

    Args:
        module: A torch module, whose weights are those of `model` in the dtypes of its files, on any devices.
        model: NS/NAME[@REF], what it was loaded from: its weights are compared with the registry's digest.
        base: A local copy of the base: a weight file, a model folder or a Hub id; the cache's when None.
        hold: Where the base's bits are taken from. `file`: its files, which the system keeps in memory while there is
            room; `memory`: memory of this process, up to `hold_bytes`. Of a module on a GPU, what fits into
            `device_memory` stays on the GPU in either case.
        hold_bytes: With `memory`, most bytes to keep.
        device: Where to compose: cpu, cuda, or auto for where the module is.
        device_memory: Most bytes to use on a GPU; the smaller of 4 GiB and a quarter of what is free when None.
        client: The registry; it stays open.
        url: The registry's address, in place of `client`.
        token: For `url`, or in place of the login's.
        quiet: Whether to show neither progress nor notes.

    Attributes:
        model: NS/NAME.
        ref: What the model is now: a version, `base`, or the digest of a recipe.

    Raises:
        NotFound: There is no such model or snapshot that you may see.
        BaseMismatch: The module holds other weights, or the local base is another.
        CheckpointMismatch: The module is of another architecture, or in other dtypes.
        InvalidRequest: A tensor of the module is not in this process's memory, or an option is malformed.
        Unauthenticated: No registry is in use.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        model: str,
        *,
        base: str | Path | None = None,
        hold: str = FILE,
        hold_bytes: int = HOLD_BYTES,
        device: str = "auto",
        device_memory: int | None = None,
        client: Client | None = None,
        url: str | None = None,
        token: str | None = None,
        quiet: bool = False,
    ) -> None:
        if hold not in (FILE, MEMORY):
            raise InvalidRequest(f"{hold!r} is not a place for a base; choose {FILE} or {MEMORY}.", field="hold")
        if client is not None and (url is not None or token is not None):
            raise InvalidRequest("Give a client, or url and token, not both.", field="client")
        self.model, ref = parse_pulled(model)
        self._console = Console(quiet=quiet)
        self._patches: dict[str, Patch] = {}
        with contextlib.ExitStack() as stack:
            self._client = client or stack.enter_context(connect(url, token))
            snapshot = find_snapshot(self._client, self.model, ref, self._console)
            self._base_digest = snapshot.weights_digest if snapshot.recipe is None else snapshot.recipe.base
            source = None if base is None else resolve(base, quiet=quiet)
            found = source or fetch_base(self._client, self.model, self._base_digest, console=self._console)
            self._base: Checkpoint = stack.enter_context(open_checkpoint(found))
            self._check_base()
            if hold == MEMORY:
                self._base = stack.enter_context(ResidentBase(self._base, hold_bytes))
            self._stack = stack  # patches are opened into it
            self._listed, self.ref = snapshot.recipe or self._empty(), snapshot.ref
            self._first = self._listed, snapshot.ref, snapshot.weights_digest
            recipe = self._open(self._listed)
            with self._console.progress("verifying the model") as progress:
                self._weights = LiveWeights(
                    module,
                    self._base,
                    self._patches,
                    recipe,
                    snapshot.weights_digest,
                    device=device,
                    device_memory=device_memory,
                    progress=progress,
                )
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close base, patches and registry; the module stays as it is."""
        self._stack.close()

    @property
    def recipe(self) -> Recipe:
        """What the model is composed of now."""
        return self._weights.recipe

    @property
    def whole(self) -> bool:
        """Whether the model holds its recipe; not so after an error that could not be undone."""
        return self._weights.whole

    def switch(self, to: "str | ComposedModel | ListedRecipe", *, verify: bool = False) -> Switched:
        """Make the model another revision of itself.

        After an error it is what it was before, unless the message says that it is not.

        Args:
            to: A version, a channel, `base`, 8 or more digits of a recipe digest, or `#N`; or what `compose` returned,
                or its recipe.
            verify: Whether to read the whole model afterwards, and compare its weights digest with the registry's.

        Raises:
            NotFound: There is no such snapshot or patch.
            BaseMismatch: It is of another base.
            NotFinite: A weight overflows.
            DigestMismatch: The registry sent other bytes than it announced, or the model was verified and is not it.
            WrongState: The change failed, and could not be undone.
        """
        if isinstance(to, ComposedModel):
            to = to.composition.recipe
        if isinstance(to, ListedRecipe):
            return self._take(to, to.digest, None, verify)
        snapshot = find_snapshot(self._client, self.model, to, self._console)
        listed = snapshot.recipe or self._empty(snapshot.weights_digest)
        return self._take(listed, snapshot.ref, snapshot.weights_digest, verify)

    def set(
        self,
        *,
        alpha: str | float | None = None,
        weights: Mapping[int, str | float] | None = None,
        method: str | None = None,
        verify: bool = False,
    ) -> Switched:
        """Change alpha, the method, or weights of patches, and leave the rest of the recipe as it is.

        Args:
            alpha: A decimal.
            weights: Decimals by the patch's number; 0 leaves a patch out, and one that is not in it yet is added, in
                its newest revision.
            method: sum, ties or mean.
            verify: Whether to compose it once more afterwards, and compare the whole model with that.

        Raises:
            NotFound: There is no such patch.
            InvalidRequest: A decimal is malformed.
            BreadcrumbError: Others as of `switch`.
        """
        items = {item.number or item.sha256: item for item in self._listed.patches}
        for number, weight in (weights or {}).items():
            text = normalise_decimal(decimal(weight), "weights")
            item = items.pop(number, None) or self._find_patch(number)
            if text != "0":
                items[number] = item.model_copy(update={"weight": text})
        kept = list(items.values())
        changed: dict[str, object] = {"patches": kept}
        changed |= {} if alpha is None else {"alpha": decimal(alpha)}
        changed |= {} if method is None else {"method": method}
        listed = self._listed.model_copy(update=changed)
        digest = canonical(listed).digest if kept else "base"
        return self._take(listed.model_copy(update={"digest": digest}), digest, None, verify)

    def revert(self, *, verify: bool = False) -> Switched:
        """Make the model what it was when this began; arguments and errors as of `switch`."""
        return self._take(*self._first, verify)

    def verify(self) -> str:
        """Read the whole model, compare it with what its recipe gives, and return its weights digest.

        Raises:
            DigestMismatch: Something else changed it.
        """
        with self._console.progress("verifying the model") as progress:
            return self._weights.verify(None, progress)

    def _take(self, listed: ListedRecipe, ref: str, digest: str | None, verify: bool) -> Switched:
        recipe = self._open(listed)
        began = time.monotonic()
        with self._console.progress(f"switching to {ref[:12]}") as progress:
            written = self._weights.compose(recipe, progress)
        seconds = time.monotonic() - began
        for sentence in tell_negative(self._weights.negative):
            self._console.note(sentence)
        self._listed, self.ref = listed, ref
        verified = None
        if verify:
            with self._console.progress("verifying the model") as progress:
                verified = self._weights.verify(digest, progress)
        return Switched(ref, written, seconds, verified)

    def _open(self, listed: ListedRecipe) -> Recipe:
        """Fetch and open the patches of a recipe that are not open yet; return the recipe."""
        if listed.base != self._base_digest:
            raise BaseMismatch(
                f"The recipe is for base {listed.base}, and this model has {self._base_digest}.", field="base"
            )
        missing = [item for item in listed.patches if item.sha256 not in self._patches]
        if missing:
            opened = open_patches(
                self._client, self.model, missing, self._base_digest, self._base, console=self._console
            )
            self._patches |= self._stack.enter_context(opened)
        return canonical(listed)

    def _find_patch(self, number: int) -> RecipeItem:
        patch = self._client.patch(self.model, number)
        if patch.base != self._base_digest:
            raise NotFound(f"{self.model}#{number} is for another base than this model has.", field="weights")
        return RecipeItem(
            sha256=patch.sha256, weight="1", number=number, revision=patch.revision, title=patch.title,
            author=None, license=None, state=None,
        )  # fmt: skip

    def _empty(self, base: str | None = None) -> ListedRecipe:
        """Return the recipe of a base without patches."""
        return ListedRecipe(digest="0" * 64, base=base or self._base_digest, alpha=ALONE, patches=[])

    def _check_base(self) -> None:
        with checked_base(self._base, self._base_digest) as known:
            if known:
                return
            with self._console.progress("verifying the base") as progress:
                found = digest_checkpoint(self._base, progress)
            if found != self._base_digest:
                raise BaseMismatch(
                    f"The base here has weights {found}, and {self.model} has {self._base_digest}; leave it out, and "
                    "the registry's is taken.",
                    field="base",
                )
