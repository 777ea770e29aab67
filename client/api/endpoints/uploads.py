"""Upload sessions: the bytes of a file, sent in parts."""

from threading import Event

from client.api.calls import Calls, part, valid
from client.api.http import Body, content_digest
from registry import schemas

COMPLETING = 3600.0  # seconds that a registry may take to hash a whole upload


class Uploads(Calls):
    """Upload sessions."""

    def announce_upload(self, sha256: str, size: int) -> schemas.Upload:
        """Open an upload session, or return the open one for the same bytes; `done` when nothing need be sent."""
        request = valid(schemas.UploadRequest, sha256=sha256, size=size)
        return self._call(schemas.Upload, "POST", "/uploads", body=request)

    def upload(self, upload: str) -> schemas.Upload:
        """Return the state of an upload session."""
        return self._call(schemas.Upload, "GET", f"/uploads/{part(upload)}")

    def send_part(
        self, upload: str, number: int, body: Body, size: int, sha256: bytes, *, stop: Event | None = None
    ) -> schemas.Part:
        """Send one part.

        Args:
            upload: Id of the session.
            number: Of the part, from 0.
            body: Yields the bytes, from the start at each call.
            size: Number of bytes.
            sha256: Digest of the bytes, 32 bytes.
            stop: Ends the wait between attempts when set.
        """
        path = f"/api/v1/uploads/{part(upload)}/parts/{number}"
        headers = {
            "Content-Digest": content_digest(sha256),
            "Content-Type": "application/octet-stream",
        }
        return self._read(schemas.Part, self.connection.put(path, body, size, headers, stop), f"PUT {path}")

    def complete_upload(self, upload: str) -> schemas.Upload:
        """Ask the registry to verify the whole file and keep it."""
        return self._call(schemas.Upload, "POST", f"/uploads/{part(upload)}/complete", timeout=COMPLETING)

    def abort_upload(self, upload: str) -> None:
        """Discard an upload session and its parts."""
        self._send("DELETE", f"/uploads/{part(upload)}")
