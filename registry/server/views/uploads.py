"""Views of upload sessions."""

from registry import schemas
from registry.db.tables import UploadSession
from registry.services.blobs import uploads


def upload(row: UploadSession) -> schemas.Upload:
    """Return the shape of an upload session."""
    return schemas.Upload(
        id=str(row.id),
        state="done" if row.state == "done" else "open",
        sha256=row.sha256,
        size=row.size,
        part_size=row.part_size,
        missing=uploads.missing_parts(row),
        expires_at=row.expires_at,
    )
