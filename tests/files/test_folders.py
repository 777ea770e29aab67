import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidRequest
from registry.files.folders import PATH_LENGTH, check_path, check_paths, is_path, is_pickle, is_weights


@pytest.mark.parametrize(
    "path",
    [
        "model.safetensors", "images/fig (1).png", "a,b.txt", "it's.md", "[x].json", "~x", "a&b", "-x", "$HOME", "a..b",
        "images and plots/plot 1.png", "x" * PATH_LENGTH,
    ],
)  # fmt: skip
def test_names_that_people_use_may_travel(path: str) -> None:
    assert is_path(path)
    check_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "a/..", "../a", "/a", "a/", "a//b", ".hidden", "a/.hidden", "a.", "a/b.", " a", "a ", "a /b",
        "a\\b", "C:x", "a*", "a?", 'a"', "a<b", "a>b", "a|b", "100%", "#1", "a\nb", "a\0", "résumé.md",
        "x" * (PATH_LENGTH + 1),
    ],
)  # fmt: skip
def test_names_that_some_system_cannot_store_or_that_leave_the_folder_are_refused(path: str) -> None:
    assert not is_path(path)
    with pytest.raises(InvalidRequest):
        check_path(path)


@given(st.text(st.characters(max_codepoint=300), max_size=12))
def test_what_is_refused_with_a_sentence_is_what_may_not_travel(path: str) -> None:
    try:
        check_path(path)
        refused = False
    except InvalidRequest:
        refused = True
    assert refused == (not is_path(path) or is_pickle(path))


@pytest.mark.parametrize("name", ["a.bin", "a.PT", "vocab.npy", "x/a.npz", "a.joblib", "a.b.pkl"])
def test_a_pickle_is_known_by_its_suffix(name: str) -> None:
    assert is_pickle(name)
    with pytest.raises(InvalidRequest, match="pickle"):
        check_path(name)


def test_a_base_needs_weights_and_names_that_do_not_collide() -> None:
    check_paths(["model.safetensors", "a/b", "a/c"])
    assert is_weights("x.safetensors") and is_weights("sub/x.safetensors") and not is_weights("x.safetensors.txt")
    for paths, why in (
        (["config.json"], "safetensors"),
        (["m.safetensors", "A", "a"], "one file on some systems"),
        (["m.safetensors", "a", "a/b"], "lies inside a"),
    ):
        with pytest.raises(InvalidRequest, match=why):
            check_paths(paths)
