"""Jobs: imports, checks, compositions and comparisons, which workers run."""

from client.api.calls import Calls, part
from registry import schemas


class Jobs(Calls):
    """One job at a time; admins list all of them."""

    def job(self, job: str, *, wait: float | None = None) -> schemas.Job:
        """Return a job; with `wait`, as soon as it has changed or ended, or after so many seconds."""
        return self._call(schemas.Job, "GET", f"/jobs/{part(job)}", params={"wait": wait})

    def cancel_job(self, job: str) -> schemas.Job:
        """Cancel a job."""
        return self._call(schemas.Job, "POST", f"/jobs/{part(job)}/cancel")
