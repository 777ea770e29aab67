"""Labelled texts out of the files of packages: each function takes a file's text, and yields (label, text)."""

import re
from collections.abc import Iterator

Labelled = Iterator[tuple[str, str]]

SHORTEST, LONGEST = 20, 240  # characters of a text


def tidy(text: str) -> str:
    """Return a text in one line, without the braces of cross-references, cut after a word."""
    text = " ".join(re.sub(r"[{}]", "", text).split())
    return text if len(text) <= LONGEST else text[:LONGEST].rpartition(" ")[0]


def usable(label: str, text: str) -> Labelled:
    """Yield a text, tidied, if it is long enough."""
    text = tidy(text)
    if len(text) >= SHORTEST:
        yield label, text


# ---- vaderSentiment: sentences, rated from -4 to 4


def rated(content: str) -> Labelled:
    """Yield `positive` and `negative` sentences of a file of lines `number, rating, sentence`; near 0 is neither."""
    for line in content.splitlines():
        _, rating, sentence = line.split("\t", 2)
        if abs(float(rating)) >= 0.5:
            yield from usable("positive" if float(rating) > 0 else "negative", sentence)


# ---- WordNet: data files


def glosses(content: str) -> Labelled:
    """Yield definitions with the two digits of their lexicographer file, which is what they are about."""
    for line in content.splitlines():
        if line.startswith("  "):  # the licence
            continue
        words, _, gloss = line.partition(" | ")
        yield from usable(words.split(" ", 2)[1], re.split(r'; "', gloss)[0])


# ---- dictd: dictionaries with an index of offsets and lengths in base 64

DIGITS = {
    letter: value for value, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
}


def number(digits: str) -> int:
    """Return a number of a dictd index."""
    value = 0
    for digit in digits:
        value = value * 64 + DIGITS[digit]
    return value


def entries(index: str, content: bytes) -> Iterator[str]:
    """Yield the different entries of a dictionary, in its order."""
    lines = [line.rsplit("\t", 2) for line in index.splitlines()]
    spans = {(number(start), number(length)) for word, start, length in lines if not word.startswith("00-database")}
    for start, length in sorted(spans):
        yield content[start : start + length].decode("utf-8", "replace")


SENSES = re.compile(r"\n\s*(?:\d+\.|\([a-z]\)|\[1913 Webster\]|\[WordNet[^\]]*\]|\[[^\]]*PJC\])|\n\s*\n")
FIELD = re.compile(r"\(([A-Z][A-Za-z. ]+\.|Law|Physics)\)\s+(?=[A-Z])")


def fields(entry: str) -> Labelled:
    """Yield definitions of a GCIDE entry that begin with a field such as `(Bot.)`, which is their label."""
    for sense in SENSES.split(entry):
        match = FIELD.search(sense)
        if match:
            yield from usable(match[1], _definition(sense[match.end() :]))


def plain(entry: str) -> Labelled:
    """Yield the first definition of a GCIDE entry that belongs to no field, as `plain`."""
    for sense in SENSES.split(entry)[1:2]:
        if not FIELD.search(sense):
            yield from usable("plain", _definition(sense))


def _definition(sense: str) -> str:
    return re.split(r"--[A-Z]|\[|\n {9,}", sense, maxsplit=1)[0]


QUOTED = re.compile(r"\n\n((?: {9,}\S.*\n)*? {9,}\S.*?)\s+--([A-Z][A-Za-z. ]+?)\.?\n")


def quotations(entry: str) -> Labelled:
    """Yield what is quoted in a GCIDE entry, with its author."""
    for match in QUOTED.finditer(entry):
        yield from usable(match[2], match[1])


def satire(entry: str) -> Labelled:
    """Yield the first definition of an entry of the Devil's Dictionary, as `satire`."""
    match = re.match(r"\s*[A-Z' -]+, [a-z.&]+\s+(.+?)(?:\n\s*\n|$)", entry, re.DOTALL)
    if match:
        yield from usable("satire", match[1])


def topics(entry: str) -> Labelled:
    """Yield the first paragraph of a FOLDOC entry, with its topic, or `none`; not if it is of the Jargon File."""
    match = re.search(r"\n\n   (?:<([^>]+)> )?(?:1\. )?(?:\([^)]*\) )?(\S.+?)(?:\n\s*\n|$)", entry, re.DOTALL)
    if match and "Jargon File" not in entry and match[1] != "jargon":
        yield from usable(match[1] or "none", match[2])


def jargon(entry: str) -> Labelled:
    """Yield the first paragraph of an entry of the Jargon File, as `jargon`."""
    match = re.search(r"\n\n    (?:\[[^\]]*\] )?(?:1\. )?(\S.+?)(?:\n\s*\n|$)", entry, re.DOTALL)
    if match:
        yield from usable("jargon", match[1])


# ---- fortunes


def fortunes(subject: str, content: str) -> Labelled:
    """Yield the sayings of a file, with its subject."""
    for saying in content.split("\n%\n"):
        yield from usable(subject, saying)


# ---- speeches: State of the Union addresses


def speeches(name: str, content: str) -> Iterator[tuple[str, str, str]]:
    """Yield (year, party, sentence) of a file that is named year_president_party.txt."""
    year, *_, party = name.rpartition("/")[2].removesuffix(".txt").split("_")
    for sentence in re.split(r"(?<=[.?!])\s+(?=[A-Z])", content):
        for _, text in usable("", sentence) if 60 <= len(sentence) <= 400 else ():
            yield year, party, text


# ---- Debian's list of packages


def packages(content: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (synopsis, section, debtags) of each package."""
    for paragraph in content.split("\n\n"):
        found = {}
        for name, value in re.findall(r"^(Description|Section|Tag): (.*(?:\n .*)*)", paragraph, re.MULTILINE):
            found[name] = " ".join(value.split())
        for _, text in usable("", found.get("Description", "").split("\n")[0]):
            yield text, found.get("Section", ""), [tag.strip() for tag in found.get("Tag", "").split(",") if tag]
