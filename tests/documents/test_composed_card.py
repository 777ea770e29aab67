import pytest
import yaml

from registry.breadcrumbs.formats.recipe import make_recipe
from registry.documents.composed_card import CardItem, kept_fields, render_card

A, B = "a" * 64, "b" * 64
RECIPE = make_recipe("sha256:" + "0" * 64, "0.3", [(B, "-0.5"), (A, "1")])
WEIGHTS = "sha256:" + "1" * 64
BASE_CARD = """---
license: apache-2.0
language:
- en
- de
tags: [text]
model-index:
- name: x
base_model: someone/else
---
# Base
license: mit
"""


def front(card):
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("\n---\n")[0])


def test_a_card_says_what_the_model_is_made_of():
    items = [CardItem(A, 1, "Code"), CardItem(B, 2, "Maths")]
    card = render_card("org/model", "org/base", RECIPE, WEIGHTS, items, BASE_CARD)
    fields = front(card)
    assert fields["base_model"] == ["org/base"] and fields["base_model_relation"] == "merge"
    assert fields["license"] == "apache-2.0" and fields["language"] == ["en", "de"]
    assert fields["tags"] == ["merge", "breadcrumbs"] and "model-index" not in fields
    assert fields["recipe_digest"] == RECIPE.digest and fields["weights_digest"] == WEIGHTS
    assert f"| #1 | Code | 1 | `{A}` |" in card and f"| #2 | Maths | -0.5 | `{B}` |" in card
    assert RECIPE.canonical().decode() in card
    assert card == render_card("org/model", "org/base", RECIPE, WEIGHTS, items[::-1], BASE_CARD)


@pytest.mark.parametrize("title", ["a|b", "x\ny", "<script>", "![](http://x)", "`", "---\nlicense: mit"])
def test_a_title_stays_in_its_cell(title):
    card = render_card("org/model", "org/base", RECIPE, WEIGHTS, [CardItem(A, 1, title)], None)
    rows = [line for line in card.splitlines() if line.endswith(f"`{A}` |")]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == 5
    assert "<script" not in card.replace("\\<", "") and "license" not in front(card)


@pytest.mark.parametrize("card", ["", "# no front matter", "---\nunclosed", "---\n---\n", "\n---\nlicense: mit\n---\n"])
def test_a_base_card_without_front_matter_gives_nothing(card):
    assert kept_fields(card) == []
    assert front(render_card("o/m", "o/b", RECIPE, WEIGHTS, [], card))["base_model"] == ["o/b"]
