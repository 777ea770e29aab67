"""Cards: results of `import client` as a person sees them, in a terminal and in a notebook."""

from html import escape

from client.terminal.console import fields, plain

LONGEST = 500  # characters of one value that are shown


class Card:
    """A result with a short text for terminals and a small HTML table for notebooks.

    Values may be strangers' words (titles, names of files): both forms drop control characters, and HTML is escaped.
    """

    __slots__ = ()

    def rows(self) -> list[tuple[str, str]]:
        """Return names and values to show."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}\n" + "\n".join(f"  {line}" for line in fields(self._plain_rows()).splitlines())

    def _repr_html_(self) -> str:
        cells = "".join(
            f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
            for name, value in self._plain_rows()
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption><tbody>{cells}</tbody></table>"

    def _plain_rows(self) -> list[tuple[str, str]]:
        return [(plain(name), plain(value)[:LONGEST]) for name, value in self.rows()]
