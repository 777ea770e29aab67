"""Mail: where one's news go by e-mail."""

from client.api.calls import Calls, valid
from registry import schemas
from registry.schemas.accounts.mail import Rhythm


class MailBox(Calls):
    """Where your news go by e-mail."""

    def mail(self) -> schemas.MailSettings:
        """Return where your news go."""
        return self._call(schemas.MailSettings, "GET", "/mail")

    def set_mail(self, address: str, rhythm: Rhythm = "daily") -> schemas.MailSettings:
        """Have your news sent to an address; a new one is first sent a link that confirms it.

        Args:
            address: The address.
            rhythm: `at_once`, `daily` or `off`.
        """
        return self._call(
            schemas.MailSettings, "PUT", "/mail", body=valid(schemas.MailRequest, address=address, rhythm=rhythm)
        )

    def confirm_mail(self, link: str) -> schemas.MailSettings:
        """Confirm your address by what the link that was sent there has after link=."""
        return self._call(schemas.MailSettings, "POST", "/mail/confirm", body=valid(schemas.MailLink, link=link))

    def forget_mail(self) -> None:
        """Delete your address, so that no mail is sent there any more."""
        self._send("DELETE", "/mail")
