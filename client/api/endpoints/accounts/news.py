"""News: mentions, and what happened in the models that one watches."""

from client.api.calls import Calls, name_of
from registry import schemas


class Newsreader(Calls):
    """What is new since you last looked."""

    def news(self) -> schemas.News:
        """Return who mentioned you, and what happened in the models that you watch, since you last looked."""
        return self._call(schemas.News, "GET", "/news")

    def see_news(self, news: schemas.News) -> None:
        """Mark as read what an answer with news held."""
        self._send("POST", "/news/seen", schemas.NewsSeen(serial=news.serial, at=news.at))

    def watch(self, model: str, watching: bool = True) -> None:
        """Watch a model, or stop watching it."""
        self._send("PUT" if watching else "DELETE", f"/models/{name_of(model)}/watch")
