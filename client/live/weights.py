"""Live weights: a loaded module that holds one composition after another, in place, without a registry.

    the module's weights ──what changes──> composed as files would be, and written where the module has them
                         <──on an error──  composed again as they were

A composition is the CPU's or the GPU's, by the engines that write files, so the bits are those of the files.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch

from client.live.bound import BoundWeights
from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.composing.held import HeldWeights
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.formats.recipe import Recipe
from registry.errors import BaseMismatch, DigestMismatch, WrongState
from registry.files.progress import Progress


class LiveWeights:
    """A module whose weights are those of one composition after another, for one thread at a time.

    Nothing may compute with the module while it is changed. Where its tensors were moved or replaced since, as by
    `module.to`, they are found again, and verified before anything is written.

    Args:
        module: The module, loaded with the weights of a composition of the base, in the base's dtypes.
        base: The base, verified; it has to stay open.
        patches: By the sha256 of their files; the caller has checked the files, and may add others.
        recipe: What the module holds now.
        digest: The weights digest of that; composed here to find out when None.
        device: Where to compose: cpu, cuda, or auto for where the module is.
        device_memory: Most bytes to use on a GPU, where what fits of the base stays.
        progress: Called with (bytes of the module that were hashed, all).

    Attributes:
        recipe: What the module holds.

    Raises:
        CheckpointMismatch: The module does not fit the base.
        BaseMismatch: The module holds other weights.
        InvalidRequest: A tensor of the module is not in this process's memory.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        base: Checkpoint,
        patches: Mapping[str, Patch],
        recipe: Recipe,
        digest: str | None = None,
        *,
        device: str = "auto",
        device_memory: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._bound, self._base, self._patches = BoundWeights(module, base), base, patches
        self._module = module
        if device == "auto":
            device = "cuda" if self._gpus() else "cpu"
        self._held = HeldWeights(
            base,
            patches,
            lambda: self._bound.open_sinks(),
            device,
            device_memory,
            lambda names: self._bound.memory(names),
        )
        self.recipe = recipe
        self._bound.check_fits(self._held.changed_by(recipe), patches, recipe)
        due, found = digest or self._compose_digest(recipe), self._bound.digest(progress)
        if found != due:
            raise BaseMismatch(
                f"The model holds weights {found}, and not {due}; load it anew from the files of that revision, and do "
                "not change it before.",
                field="model",
            )
        self._held.hold(recipe)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The tensors that only one of base and module has, and that stay as they are."""
        return self._bound.left_out

    @property
    def whole(self) -> bool:
        """Whether the module holds its recipe; not so after an error that could not be undone."""
        return not self._held.stale

    @property
    def negative(self) -> dict[str, int]:
        """How many variances of batch norm the last composition made negative, by tensor, of those it wrote."""
        return self._held.negative

    def compose(self, recipe: Recipe, progress: Progress | None = None) -> int:
        """Make the module's weights those of a composition; return how many bytes of tensors were written.

        After an error the module holds what it held before, unless the message says that it does not.

        Args:
            recipe: What to compose.
            progress: Called with (bytes begun, bytes to write).

        Raises:
            CheckpointMismatch: The module has no place for a tensor that changes, or was converted to another dtype.
            DigestMismatch: The module's tensors were replaced, and the new ones hold other weights.
            BaseMismatch, InvalidRecipe, InvalidPatch, NotFinite: As of `compose`.
            WrongState: An error came up while weights were written, and another one when they were to be restored.
        """
        if self._bound.moved():
            self.verify()
        self._bound.check_fits(self._held.changed_by(recipe), self._patches, recipe)
        with self._alone():
            try:
                written = self._held.compose(recipe, progress)
            except BaseException as why:
                self._restore(why)
                raise
        self.recipe = recipe
        return written

    def _gpus(self) -> list[torch.device]:
        """Return the GPUs on which the module is, that of its first parameter first."""
        return list(dict.fromkeys(it.device for it in self._module.parameters() if it.is_cuda))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Have the module's GPUs end what they were given before, and what is given inside; compose on the first."""
        gpus = self._gpus()
        for gpu in gpus:
            torch.cuda.synchronize(gpu)
        with torch.cuda.device(gpus[0]) if gpus else nullcontext():
            yield
        for gpu in gpus:
            torch.cuda.synchronize(gpu)

    def verify(self, digest: str | None = None, progress: Progress | None = None) -> str:
        """Read the whole module, and compare its weights digest; return the digest.

        Args:
            digest: What it should be; when None, what composing its recipe once more gives.
            progress: Called with (bytes hashed, bytes to hash).

        Raises:
            DigestMismatch: The module holds other weights.
            CheckpointMismatch: It was converted to another dtype.
        """
        bound = self._bound.anew() if self._bound.moved() else self._bound
        due, found = digest or self._compose_digest(self.recipe), bound.digest(progress)
        if found != due:
            raise DigestMismatch(
                f"The model holds weights {found}, and recipe {self.recipe.digest[:12]} has {due}. Something else "
                "changed the model, or its base or a patch on this machine; load it anew."
            )
        self._bound = bound
        return found

    def _compose_digest(self, recipe: Recipe) -> str:
        digest = compose(self._base, self._patches, recipe, None, self._held.device, check_base=False).weights_digest
        assert digest is not None
        return digest

    def _restore(self, why: BaseException) -> None:
        """Compose what an error left half written as it was before."""
        if not self._held.stale:
            return
        try:
            self._held.compose(self.recipe)
        except Exception as again:
            raise WrongState(
                f"Changing the model failed ({why}), and so did restoring it ({again}): some of its tensors hold "
                "neither the old weights nor the new ones. Switch it once more, or load it anew.",
                field="model",
            ) from why
