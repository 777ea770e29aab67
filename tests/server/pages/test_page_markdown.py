"""Strangers' Markdown: drawn, and harmless."""

from html.parser import HTMLParser

import pytest
from hypothesis import given, strategies

from registry.server.pages.frame.markdown import ATTRIBUTES, LONGEST, TAGS, draw

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](https://tracker.example/pixel.png)",
    "[x](javascript:alert(1))",
    "[x](  java\nscript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    '<a href="&#106;avascript:alert(1)">x</a>',
    "<svg><script>alert(1)</script></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<style>body{display:none}</style>",
    '<p style="position:fixed" class="top" id="main" hx-get="/logout">x</p>',
    '<form action="/logout" method="post"><button>x</button></form>',
    '<iframe src="/admin"></iframe><base href="//evil.example/"><meta http-equiv=refresh content=0>',
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    "`<script>`\n\n    <script>\n",
]


class Reader(HTMLParser):
    """Collects all tags and attributes of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name, value or "") for name, value in attrs] or [(tag, "", "")]


def require_harmless(html: str) -> None:
    for tag, name, value in Reader(html).found:
        assert tag in TAGS, html
        assert not name or name in ATTRIBUTES.get(tag, set()) | {"rel"}, html
        if name == "href":
            assert value.startswith(("http://", "https://", "mailto:", "/", "#")) or ":" not in value, html


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_strangers_write_can_do_nothing(attack: str) -> None:
    for text in (attack, f"# {attack}", f"- {attack}", f"| a |\n|---|\n| {attack} |", f"> {attack}\n{attack}"):
        require_harmless(str(draw(text)))


@given(strategies.text(alphabet="<>&\"'/=!-`*_[]()#|\\ \n:;aisrcthefonxmlp0", max_size=200))
def test_no_text_at_all_gets_through(text: str) -> None:
    require_harmless(str(draw(text)))


def test_a_card_looks_as_on_the_hub() -> None:
    table = "| a | b |\n|---|---|\n| 1 | 2 |"
    card = f"---\nlicense: mit\n---\n\n# Title\n\nSome *words* and `code`.\n\n{table}\n\n```python\nx < 1\n```\n"
    html = str(draw(card))
    assert "license: mit" not in html
    assert "<h3>Title</h3>" in html  # below the headings of the page
    for part in ("<em>words</em>", "<code>code</code>", "<td>2</td>", "x &lt; 1"):
        assert part in html


def test_links_give_away_no_address_and_no_rank() -> None:
    assert 'rel="nofollow noopener noreferrer"' in draw("[x](https://example.org)")


def test_a_rule_at_the_head_is_no_front_matter_without_its_end() -> None:
    assert "words" in draw("---\nwords without an end")


def test_nothing_is_drawn_of_nothing() -> None:
    assert draw(None) == draw("") == ""


def test_a_long_card_is_cut_and_a_nested_one_is_bounded() -> None:
    assert len(draw("word " * LONGEST)) < 3 * LONGEST
    for hostile in (">" * 50_000, "[" * 50_000, "*" * 50_000 + "a", "- " * 20_000, "`" * 50_000 + "a", "![" * 30_000):
        require_harmless(str(draw(hostile)))  # a second; a quadratic parser would take hours
