"""Excerpts: where files of patches and bases have the tensors that a job needs, each part with its digest."""

from collections.abc import Callable, Collection, Iterable, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.breadcrumbs.formats.header import TensorSpec
from registry.db.tables import STORED, BaseTensor, Model, PatchTensor
from registry.files.hashing import Extent
from registry.services.catalog import models, patches
from registry.services.people.access import AnyModel
from registry.storage.pieces import Excerpt

WORTH = 50  # a blob of which all but a fiftieth is needed is taken whole, as others will need it


def of_patches(session: Session, model: AnyModel, wanted: Mapping[str, Callable[[str], bool]]) -> dict[str, Excerpt]:
    """Return what is needed of patch files: the header, and mask and values of some tensors.

    Args:
        session: A transaction.
        model: The model that the patches are of.
        wanted: Says of each patch, by the sha256 of its file, whether a tensor is needed.

    Returns:
        An excerpt of each file that need not be here whole; those of before parts were hashed are not among them.
    """
    found = dict[str, Excerpt]()
    for sha256, revision in patches.by_digest(session, model, list(wanted)).items():
        rows = session.execute(
            select(PatchTensor.name, PatchTensor.extents).where(PatchTensor.revision_id == revision.id)
        )
        parts = [extents for name, extents in rows if wanted[sha256](name)]
        if revision.header_size is not None and revision.header_sha256 is not None and None not in parts:
            header = Extent(0, revision.header_size, revision.header_sha256)
            extents = [Extent(*extent) for part in parts for extent in part or ()]
            found |= worthwhile(sha256, revision.size, [header, *extents])
    return found


def of_base(session: Session, model: Model, wanted: Collection[str]) -> dict[str, Excerpt]:
    """Return what is needed of a base's weight files: the header of each, and some tensors.

    Args:
        session: A transaction.
        model: The model.
        wanted: The tensors that are needed; names that the base does not have do not matter.

    Returns:
        An excerpt of each file that need not be here whole; those at a Hub, and those of before the places of tensors
        were recorded, are not among them.
    """
    columns = BaseTensor.name, BaseTensor.dtype, BaseTensor.shape, BaseTensor.sha256, BaseTensor.path, BaseTensor.start
    needed, extents, files = frozenset(wanted), dict[str, set[Extent]](), models.base_files(session, model)
    named = {file.path: file.sha256 for file in files}
    for name, dtype, shape, sha256, path, start in session.execute(
        select(*columns).where(BaseTensor.model_id == model.id)
    ):
        if path is None or start is None:
            return {}
        if name in needed:
            extent = Extent(start, start + TensorSpec(dtype, tuple(shape)).bytes, sha256)
            extents.setdefault(named[path], set()).add(extent)
    found = dict[str, Excerpt]()
    for file in files:
        if file.header_size is not None and file.header_sha256 is not None and file.blob.state in STORED:
            header = Extent(0, file.header_size, file.header_sha256)
            found |= worthwhile(file.sha256, file.blob.size, [header, *extents.get(file.sha256, ())])
    return found


def worthwhile(sha256: str, size: int, extents: Iterable[Extent]) -> dict[str, Excerpt]:
    """Return an excerpt of a file by its sha256; nothing if it is about as long as the file."""
    needed = sorted((extent for extent in extents if extent.start < extent.stop), key=lambda extent: extent.start)
    left_out = size - sum(extent.stop - extent.start for extent in needed)
    return {sha256: Excerpt(sha256, size, tuple(needed))} if left_out * WORTH > size else {}
