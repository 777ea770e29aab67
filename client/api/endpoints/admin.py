"""Administration: reports of abuse, quarantine, quotas, the policy, workers and jobs."""

from collections.abc import Iterator
from typing import Any

from client.api.calls import Calls, name_of, part, valid
from registry import schemas


class Admin(Calls):
    """Reports, which everybody signed in may send; the rest is for admins of the registry."""

    def report(self, model: str, reason: str, message: str, number: int | None = None) -> schemas.Report:
        """Report a model, or a patch of it, to the admins; reporting it again changes your open report."""
        request = valid(schemas.ReportRequest, number=number, reason=reason, message=message)
        return self._call(schemas.Report, "POST", f"/models/{name_of(model)}/reports", body=request)

    def reports(self, *, is_open: bool = True, limit: int | None = None) -> Iterator[schemas.Report]:
        """Yield the open reports, or the closed ones, newest first."""
        return self._pages(schemas.ReportPage, "/admin/reports", "before", limit, open=str(is_open).lower())

    def close_report(self, report: str, answer: str) -> schemas.Report:
        """Close a report with an answer."""
        request = valid(schemas.ReportAnswer, answer=answer)
        return self._call(schemas.Report, "POST", f"/admin/reports/{part(report)}/close", body=request)

    def summary(self) -> schemas.Summary:
        """Return the numbers of users, models, patches, blobs, jobs and open reports."""
        return self._call(schemas.Summary, "GET", "/admin/summary")

    def workers(self) -> list[schemas.Worker]:
        """Return the workers seen in the last day and the job of each, last seen first."""
        return self._list(schemas.Worker, "/admin/workers")

    def jobs(
        self, *, state: str | None = None, kind: str | None = None, limit: int | None = None
    ) -> Iterator[schemas.AdminJob]:
        """Yield the jobs of all models, newest first."""
        return self._pages(schemas.AdminJobPage, "/admin/jobs", "before", limit, state=state, kind=kind)

    def quarantined(self, *, limit: int | None = None) -> Iterator[schemas.Patch]:
        """Yield the patches in quarantine, of all models, newest quarantine first."""
        return self._pages(schemas.QuarantinePage, "/admin/quarantine", "before", limit)

    def namespaces(self, *, search: str | None = None, limit: int | None = None) -> Iterator[schemas.NamespaceUsage]:
        """Yield the quotas of namespaces and what they use, by name."""
        return self._pages(schemas.NamespaceUsagePage, "/admin/namespaces", "after", limit, search=search)

    def set_quota(self, namespace: str, **quotas: int | None) -> schemas.NamespaceUsage:
        """Set a namespace's quota of `bytes` or of open `uploads`; None restores the server's default."""
        request, path = valid(schemas.QuotaRequest, **quotas), f"/admin/namespaces/{part(namespace)}/quota"
        return self._call(schemas.NamespaceUsage, "PUT", path, body=request, only_given=True)

    def policy(self) -> schemas.Policy:
        """Return what the registry asks of everybody: licences, masks, bases from the Hub, how people join."""
        return self._call(schemas.Policy, "GET", "/policy")

    def set_policy(self, **wanted: Any) -> schemas.Policy:
        """Change fields of the policy; None asks for nothing from now on."""
        request = valid(schemas.PolicyRequest, **wanted)
        return self._call(schemas.Policy, "PUT", "/admin/policy", body=request, only_given=True)

    def settings(self) -> list[schemas.Setting]:
        """Return the limits that only the operator can change."""
        return self._list(schemas.Setting, "/admin/settings")
