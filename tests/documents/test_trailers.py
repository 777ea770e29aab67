"""Options that an error names, as the trailers by which tools of the Hub say them."""

import pytest

from registry.documents.trailers import from_options, read_trailers


@pytest.mark.parametrize(
    ("sentence", "options"),
    [
        ("Compare with `--shared-only`.", {"shared_only": True}),
        ("With `--shared-rows --shared-only`.", {"shared_rows": True, "shared_only": True}),
        ("`--exclude '*.a b'  --exclude c --shared-rows`.", {"exclude": ["*.a b", "c"], "shared_rows": True}),
        ("`--strip-prefix x.` or `--strip-prefix y.`.", {"strip_prefix": "y."}),
        ("No tensor matches `--include q`. Did you mean `--include q.weight`?", {"include": ["q.weight"]}),
        ("Use `crumb diff BASE ADAPTER -o FILE`.", {}),
        ("Say `--device cuda`.", {}),
        ("Say `--exclude`, or `--exclude 'a`.", {}),
        ("Nothing changed.", {}),
    ],
)
def test_options_at_the_end_of_a_sentence_become_trailers_that_say_the_same(sentence: str, options: object) -> None:
    assert read_trailers("Learn sums.\n\n" + "\n".join(from_options(sentence))) == options
