from pathlib import Path

import pytest

from client.terminal.addresses import (
    check_model,
    parse_file,
    parse_item,
    parse_patch,
    parse_pulled,
    parse_snapshot,
    parse_subject,
)
from registry.errors import InvalidRequest


def test_addresses_are_split() -> None:
    assert parse_snapshot("ana/llm") == ("ana/llm", "main")
    assert parse_snapshot("ana/llm@base") == ("ana/llm", "base")
    assert parse_snapshot("ana/llm@0123ABCD") == ("ana/llm", "0123abcd")
    assert parse_snapshot("ana/llm@1.2.0-rc.1") == ("ana/llm", "1.2.0-rc.1")
    assert parse_snapshot("ana/llm@stable") == ("ana/llm", "stable")
    assert parse_patch("ana/llm#12") == ("ana/llm", 12, None)
    assert parse_patch("ana/llm#12.3") == ("ana/llm", 12, 3)
    assert parse_patch("one.safetensors") is None
    assert parse_subject("ana/llm") == ("ana/llm", None)
    assert parse_subject("ana/llm#12") == ("ana/llm", 12)
    assert parse_item("3") == parse_item("#3") == parse_item("3:1") == (3, "1", None)
    assert parse_item("#12:-0.5") == (12, "-0.5", None)
    assert parse_item("12.2:0.5") == (12, "0.5", 2)


@pytest.mark.parametrize("text", ["llm", "ana/llm/x", "Ana/llm", "ana/-llm", "ana/llm.", "ana\nx/llm"])
def test_what_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="NS/NAME"):
        check_model(text)


@pytest.mark.parametrize(
    "text", ["ana/llm@", "ana/llm@Main", "ana/llm@1.2", "ana/llm@../x", "ana/llm@0123abc", "ana/llm@" + "0" * 65]
)
def test_what_is_not_a_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not a reference"):
        parse_snapshot(text)


@pytest.mark.parametrize("text", ["ana/llm#", "ana/llm#0", "ana/llm#1.2", "ana/llm##1", "ana#1", "ana/llm#1 "])
def test_what_names_neither_a_model_nor_a_patch_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"model|patch"):
        parse_subject(text)


@pytest.mark.parametrize("text", ["", "0", "x", "1:", "1:x", "1:1e3", "1:.5", "-1", "99999999999", "1:2:3"])
def test_what_names_no_patch_of_a_recipe_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="patch"):
        parse_item(text)


def test_a_file_named_like_a_weight_wins_over_the_weight(tmp_path: Path) -> None:
    assert parse_file("a.safetensors:0.5") == (Path("a.safetensors"), "0.5")
    assert parse_file("a.safetensors") == (Path("a.safetensors"), "1")
    assert parse_file("C:a") == (Path("C:a"), "1")
    odd = tmp_path / "a:2"
    odd.touch()
    assert parse_file(str(odd)) == (odd, "1")
    assert parse_file(f"{odd}:3") == (odd, "3")


def test_a_patch_can_be_pulled_by_its_number_or_as_a_pull_request_of_the_hub() -> None:
    for text in ("acme/llm#12", "acme/llm@refs/pr/12"):
        assert parse_pulled(text) == ("acme/llm", "#12")
    assert parse_pulled("acme/llm#12.3") == ("acme/llm", "#12.3")
    assert parse_pulled("acme/llm") == ("acme/llm", "main")
    for text in ("acme/llm#0", "acme/llm#", "acme/llm@refs/pr/0", "acme/llm#1#2", "llm#1", "acme/llm@1.0.0#1"):
        with pytest.raises(InvalidRequest):
            parse_pulled(text)
