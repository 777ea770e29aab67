"""Sessions: where you are signed in, linked accounts, and logins by a code."""

from client.api.calls import Calls, part, valid
from registry import schemas


class Sessions(Calls):
    """Browsers that are signed in, and programs that ask to be let in."""

    def sessions(self) -> schemas.Sessions:
        """Return where you are signed in, and by which accounts you may sign in."""
        return self._call(schemas.Sessions, "GET", "/sessions")

    def end_session(self, session: str) -> None:
        """Sign one of your browsers out, by the session's id."""
        self._send("DELETE", f"/sessions/{part(session)}")

    def unlink_account(self, account: str) -> None:
        """Unlink an account at a provider, by its id."""
        self._send("DELETE", f"/sessions/accounts/{part(account)}")

    def ask_for_codes(self, label: str = "") -> schemas.DeviceCodes:
        """Ask for codes by which somebody lets this program in."""
        return self._call(schemas.DeviceCodes, "POST", "/device", body=valid(schemas.DeviceRequest, label=label))

    def ask_for_token(self, device_code: str) -> schemas.DeviceAnswer:
        """Ask whether somebody let this program in; the first answer that says so holds its token."""
        body = valid(schemas.DeviceQuestion, device_code=device_code)
        return self._call(schemas.DeviceAnswer, "POST", "/device/token", body=body)

    def decide_on_device(self, user_code: str, approve: bool) -> schemas.Device:
        """Let a program in with all that your token may do, or turn it away."""
        body = valid(schemas.DeviceDecision, user_code=user_code, approve=approve)
        return self._call(schemas.Device, "POST", "/device/decide", body=body)
