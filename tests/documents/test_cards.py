import subprocess
import sys

import pytest
from huggingface_hub import EvalResult, ModelCard
from hypothesis import given
from hypothesis import strategies as st

from registry.documents.cards import CardPatch, render_release_card
from registry.documents.manifest import Evaluation
from registry.errors import InvalidRequest
from tests.support.release_makers import RECIPE, WEIGHTS, A, B

PATCHES = [CardPatch(A, 1, "Code", "alice", "mit"), CardPatch(B, 2, "Maths", "bob", None)]
EVALUATIONS = [
    Evaluation("text-generation", "gsm8k", "exact_match", 0.625, True, "alice"),
    Evaluation("text-generation", "gsm8k", "f1", 1e-07, True, "bob"),
    Evaluation("text-generation", "other: [set]", "loss", 2.0, False, "bob"),
]
BASE_CARD = """---
license: cc-by-4.0
language:
- en
- no   # which YAML takes for false
library_name: transformers
datasets: [org/one, "org/two"]
tags: [text]
model-index:
- name: x
base_model: someone/else
---
# Base
license: mit
"""


def card(patches=PATCHES, evaluations=EVALUATIONS, model="org/model", **more):
    return render_release_card(model, "1.2.0", "org/base", RECIPE, WEIGHTS, patches, evaluations=evaluations, **more)


def test_a_card_reads_back_with_all_that_the_hub_looks_for():
    text = card(licence="apache-2.0", base_card=BASE_CARD)
    found = ModelCard(text)
    assert str(found) == text
    data = found.data.to_dict()
    assert data["base_model"] == ["org/base"] and data["base_model_relation"] == "merge"
    assert data["tags"] == ["merge", "breadcrumbs"] and data["license"] == "apache-2.0"
    assert data["language"] == ["en", "no"] and data["library_name"] == "transformers"
    assert data["datasets"] == ["org/one", "org/two"] and data["version"] == "1.2.0"
    assert data["recipe_digest"] == RECIPE.digest and data["weights_digest"] == WEIGHTS
    assert found.data.model_name == "org/model"
    assert found.data.eval_results == [
        EvalResult(one.task, one.dataset, one.dataset, one.metric, one.value) for one in EVALUATIONS
    ]
    assert [len(result["metrics"]) for result in data["model-index"][0]["results"]] == [2, 1]


def test_a_card_says_what_the_release_is_made_of_and_how_to_verify_it():
    text = card(changelog="## [1.2.0] - 2026-11-25\n\n- x\n")
    assert f"| \\#1 | Code | alice | 1 | mit | `{A}` |" in text
    assert f"| \\#2 | Maths | bob | -0.5 | none | `{B}` |" in text
    assert "| text-generation | gsm8k | exact\\_match | 0.625 | alice |" in text
    assert RECIPE.canonical().decode() in text and WEIGHTS in text
    assert f"`crumb verify FOLDER org/model@{RECIPE.digest[:16]} --recompose`" in text
    assert text.endswith("# Changelog\n\n## [1.2.0] - 2026-11-25\n\n- x\n")
    assert text == card(patches=PATCHES[::-1], changelog="## [1.2.0] - 2026-11-25\n\n- x\n")


def test_the_licence_and_its_name_come_from_the_base_unless_one_is_given():
    base = "---\nlicense: other\nlicense_name: own-1.0\nlicense_link: https://e.org/own\n---\n"
    data = ModelCard(card(base_card=base)).data
    assert (data.license, data.license_name, data.license_link) == ("other", "own-1.0", "https://e.org/own")
    data = ModelCard(card(base_card=base, licence="mit")).data
    assert (data.license, data.license_name, data.license_link) == ("mit", None, None)


def test_a_release_without_patches_evaluations_or_base_card_has_a_card():
    text = render_release_card("o/m", "1.0.0", "o/b", RECIPE, WEIGHTS, [])
    assert "model-index" not in ModelCard(text).data.to_dict() and "Evaluations" not in text
    assert f"`{A}` |" in text  # a patch that nobody described appears by its digest


@pytest.mark.parametrize(
    "words",
    ["a|b", "x\ny", "x\n---\nlicense: mit", "<script>", "![](http://x)", "`", "a\u2028b", "a\r\nb", "\x00", "{{ x }}",
     "yes", "1.0", "- a", "&a *a", "!!python/object:os.system", "'\"", "a: b #c", "\ud800", "x" * 300 + " --- " * 40],
)  # fmt: skip
def test_strangers_words_break_neither_front_matter_nor_tables(words):
    patches = [CardPatch(A, 1, words, words, words), PATCHES[1]]
    text = card(patches=patches, evaluations=[Evaluation(words or "t", words, words, 0.5, True, words)])
    text.encode("utf-8")
    found = ModelCard(text)
    assert set(found.data.to_dict()) == {
        "base_model", "base_model_relation", "tags", "version", "recipe_digest", "weights_digest", "model-index"
    }  # fmt: skip
    assert found.data.base_model == ["org/base"] and found.text.lstrip().startswith("# org/model 1.2.0")
    (row,) = [line for line in text.splitlines() if line.endswith(f"`{A}` |")]
    assert row.replace("\\|", "").count("|") == 7
    (row,) = [line for line in text.splitlines() if " | 0.5 | " in line]
    assert row.replace("\\|", "").count("|") == 6
    assert "<script" not in found.text.replace("\\<", "") and "://x" not in found.text
    (result,) = found.data.eval_results
    assert result.dataset_name == " ".join(words.replace("\x00", " ").replace("\ud800", " ").split())


@given(st.text(min_size=1, max_size=40))
def test_whatever_a_dataset_is_called_reads_back_on_one_line(name):
    (result,) = ModelCard(card(evaluations=[Evaluation("t", name, "m", 0.5, True, "w")])).data.eval_results
    assert len(result.dataset_name.splitlines()) <= 1
    assert "".join(result.dataset_name.split()) == "".join(part for part in result.dataset_name if not part.isspace())


@pytest.mark.parametrize(
    "given", ["---\nlanguage: !!x y\n---\n", "---\nlanguage: [en, {a: b}]\nlicense: >\n  m\n---\n"]
)
def test_of_a_base_card_only_plain_words_are_kept(given):
    data = ModelCard(card(base_card=given)).data
    assert data.language in (None, ["en"]) and data.license in (None, "m")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_evaluation_that_is_no_number_is_refused(value):
    with pytest.raises(InvalidRequest, match="finite"):
        card(evaluations=[Evaluation("t", "d", "m", value, True, "w")])


def test_importing_cards_loads_neither_the_hub_nor_torch():
    code = (
        "import sys, registry.documents.cards, registry.documents.provenance\n"
        "print({'huggingface_hub', 'torch', 'httpx2', 'yaml', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
