"""Joining: profiles, invitations, requests to join, and accounts that admins make."""

from collections.abc import Iterator
from datetime import datetime

from client.api.calls import Calls, part, valid
from registry import schemas


class Joining(Calls):
    """Profiles and invitations; what is about all users is for admins of the registry."""

    def profile(self, user: str) -> schemas.Profile:
        """Return a user, with the newest of their patches."""
        return self._call(schemas.Profile, "GET", f"/users/{part(user)}")

    def update_profile(self, display_name: str) -> schemas.Profile:
        """Change how you want to be called."""
        body = valid(schemas.ProfileUpdate, display_name=display_name)
        return self._call(schemas.Profile, "PATCH", "/profile", body=body)

    def ask_to_join(self, name: str, message: str = "") -> schemas.Asked:
        """Ask for an account, where anybody may; only this answer holds the address that lets you in."""
        return self._call(schemas.Asked, "POST", "/joining", body=valid(schemas.AskRequest, name=name, message=message))

    def accept_invitation(self, invitation: str, name: str | None = None, *, display_name: str = "") -> schemas.Joined:
        """Use an invitation: its role if you are logged in, else an account of this name, with its first token."""
        body = valid(schemas.AcceptInvitation, invitation=invitation, name=name, display_name=display_name)
        return self._call(schemas.Joined, "POST", "/joining/accept", body=body)

    def invite(
        self, namespace: str | None = None, role: str = "contributor", *, label: str = "", expires_days: float = 7
    ) -> schemas.NewInvitation:
        """Invite one person, to a role in a namespace if one is named; only this answer holds the address."""
        words = {"label": label, "expires_days": expires_days}
        if namespace is None:
            body = valid(schemas.InvitationRequest, **words)
            return self._call(schemas.NewInvitation, "POST", "/admin/invitations", body=body)
        wider = valid(schemas.MemberInvitationRequest, role=role, **words)
        return self._call(schemas.NewInvitation, "POST", f"/namespaces/{part(namespace)}/invitations", body=wider)

    def invitations(
        self, namespace: str | None = None, *, asked: bool = False, limit: int | None = None
    ) -> Iterator[schemas.Invitation]:
        """Yield the invitations that nobody used, of a namespace or of all, or the requests to join that wait."""
        if namespace is not None:
            return self._pages(schemas.InvitationPage, f"/namespaces/{part(namespace)}/invitations", "before", limit)
        return self._pages(schemas.InvitationPage, "/admin/invitations", "before", limit, asked=str(asked).lower())

    def approve_request(self, invitation: str) -> schemas.Invitation:
        """Let somebody who asked join, by the address that they were given."""
        return self._call(schemas.Invitation, "POST", f"/admin/invitations/{part(invitation)}/approve")

    def refuse_requests(self, until: datetime) -> int:
        """Refuse all requests to join that were made until a time; return how many."""
        body = valid(schemas.RefuseRequests, until=until)
        return self._call(schemas.RefusedRequests, "POST", "/admin/invitations/refuse", body=body).refused

    def revoke_invitation(self, invitation: str, namespace: str | None = None) -> None:
        """Revoke an invitation that nobody used, or refuse a request; owners name their namespace."""
        where = "/admin" if namespace is None else f"/namespaces/{part(namespace)}"
        self._send("DELETE", f"{where}/invitations/{part(invitation)}")

    def users(self, *, search: str | None = None, limit: int | None = None) -> Iterator[schemas.Account]:
        """Yield users, by name."""
        return self._pages(schemas.AccountPage, "/admin/users", "after", limit, search=search)

    def create_user(self, name: str, *, display_name: str = "", expires_days: float = 365) -> schemas.NewAccount:
        """Make an account for somebody; only this answer holds its first token."""
        body = valid(schemas.AccountRequest, name=name, display_name=display_name, expires_days=expires_days)
        return self._call(schemas.NewAccount, "POST", "/admin/users", body=body)

    def set_user_active(self, name: str, active: bool) -> schemas.Account:
        """Disable a user from their next request on, or enable them again."""
        body = valid(schemas.AccountUpdate, active=active)
        return self._call(schemas.Account, "PATCH", f"/admin/users/{part(name)}", body=body)
