from dataclasses import dataclass
from html.parser import HTMLParser

from client.terminal.cards import LONGEST, Card


@dataclass(frozen=True, slots=True, repr=False)
class Words(Card):
    title: str

    def rows(self) -> list[tuple[str, str]]:
        return [("title", self.title), ("number", "1")]


class Tags(HTMLParser):
    """The tags and the text of a document, as a browser reads them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = '<script>alert(1)</script><img src=x onerror="go()">&amp; "quoted" \'too\'</td></table><b>'


def test_strangers_words_are_text_in_a_notebook_and_never_tags() -> None:
    read = Tags(Words(HOSTILE)._repr_html_())
    assert read.tags == {"table", "caption", "tbody", "tr", "th", "td"}
    assert HOSTILE in read.text


def test_strangers_words_carry_no_control_characters() -> None:
    card = Words("red\x1b[31m\nnext\u202e line")
    for text in (repr(card), card._repr_html_()):
        assert "red [31m next line" in text
        assert "\x1b" not in text and "\u202e" not in text


def test_a_card_is_its_name_and_a_line_for_each_value() -> None:
    assert repr(Words("sums")).splitlines() == ["Words", "  title   sums", "  number  1"]


def test_endless_words_are_cut() -> None:
    assert len(repr(Words("x" * 10**6))) < LONGEST + 100
