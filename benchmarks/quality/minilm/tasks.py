"""Tasks: what is asked of a text, and the sentences that answer it; tasks of one group share their packages."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A question about a text.

    Attributes:
        group: The packages that its texts come from.
        answers: A sentence for each label.
    """

    group: str
    answers: Mapping[str, str]


def _each(sentence: str, names: Mapping[str, str]) -> dict[str, str]:
    return {label: sentence.format(name) for label, name in names.items()}


SENTIMENT = {"positive": "{} that is happy and full of praise", "negative": "{} that is unhappy and full of complaint"}


def _sentiment(what: str) -> dict[str, str]:
    return {label: sentence.format(what) for label, sentence in SENTIMENT.items()}


NOUNS = {
    "04": "an act or action",
    "05": "an animal",
    "06": "an object made by people",
    "07": "a property of people or things",
    "08": "a part of the body",
    "10": "speech and communication",
    "13": "food or drink",
    "14": "a group of people or things",
    "15": "a place",
    "18": "a person",
    "20": "a plant",
    "26": "a state of affairs",
    "27": "a substance",
}
VERBS = {
    "29": "grooming, dressing and care of the body",
    "30": "change of size, temperature or intensity",
    "31": "thinking and judging",
    "32": "telling, asking and singing",
    "33": "fighting and competing",
    "34": "eating and drinking",
    "35": "touching, hitting, tying and digging",
    "36": "sewing, baking, painting and making",
    "37": "feeling",
    "38": "walking, flying and swimming",
    "39": "seeing, hearing and feeling",
    "40": "buying, selling and owning",
    "41": "political and social events",
    "42": "being and having",
}
SPEECH = {
    "n": "a noun, a thing",
    "v": "a verb, something to do",
    "a": "an adjective, how something is",
    "r": "an adverb",
}
FIELDS = {
    "Zool.": "zoology and animals",
    "Bot.": "botany and plants",
    "Chem.": "chemistry",
    "Med.": "medicine and illness",
    "Anat.": "anatomy and the body",
    "Naut.": "ships and sailing",
    "Law": "law",
    "Min.": "minerals",
    "Mus.": "music",
    "Arch.": "architecture",
    "Mil.": "war and soldiers",
    "Astron.": "astronomy",
    "Mach.": "machines",
    "Her.": "heraldry",
}
AUTHORS = {
    "Chaucer": "Geoffrey Chaucer, in the English of the Middle Ages",
    "Shak": "William Shakespeare, of a play",
    "Spenser": "Edmund Spenser, of a romance of knights",
    "Macaulay": "Thomas Macaulay, of a history of England",
}
TOPICS = {
    "language": "a programming language",
    "networking": "computer networks",
    "programming": "writing programs",
    "operating system": "operating systems",
    "company": "a company",
    "hardware": "hardware",
    "communications": "communications and telephones",
    "mathematics": "mathematics",
    "storage": "disks and storage",
    "processor": "processors",
    "database": "databases",
    "character": "a character or letter",
}
SUBJECTS = {
    "computers": "computers",
    "definitions": "the meaning of a word",
    "education": "school and students",
    "food": "food and eating",
    "law": "lawyers and laws",
    "linux": "Linux and free software",
    "men-women": "men and women",
    "people": "famous people",
    "politics": "politics and government",
    "science": "science",
    "songs-poems": "a song or poem",
    "sports": "sports",
    "startrek": "Star Trek",
    "work": "work and bosses",
    "zippy": "nonsense and madness",
    "tao": "the Tao and old China",
}
ERAS = {
    "1790": "in the early republic, 1790 to 1829",
    "1830": "before the Civil War, 1830 to 1864",
    "1865": "after the Civil War, 1865 to 1899",
    "1900": "at the time of the World Wars, 1900 to 1945",
    "1946": "in the Cold War, 1946 to 1980",
    "1981": "in our time, after 1980",
}
SECTIONS = {
    "admin": "administration of a system",
    "devel": "development of software",
    "doc": "documentation",
    "fonts": "fonts",
    "games": "games",
    "gnu-r": "statistics in R",
    "graphics": "graphics and pictures",
    "java": "Java",
    "javascript": "JavaScript",
    "libs": "a library",
    "net": "networks and the internet",
    "perl": "Perl",
    "python": "Python",
    "science": "science",
    "sound": "sound and music",
    "text": "text and documents",
    "utils": "small utilities",
    "x11": "windows and desktops",
}
WORKS = {
    "text": "text",
    "audio": "sound and music",
    "mail": "mail",
    "db": "databases",
    "file": "files",
    "software:source": "source code",
    "network-traffic": "network traffic",
    "software:running": "running programs",
    "archive": "archives",
    "dictionary": "dictionaries",
    "software:package": "software packages",
    "image": "images",
    "video": "video",
    "logfile": "log files",
}
USES = {
    "gameplaying": "playing games",
    "converting": "converting data",
    "checking": "checking and testing",
    "editing": "editing",
    "monitor": "watching a system",
    "configuring": "configuration",
    "viewing": "viewing data",
    "playing": "playing music and video",
    "searching": "searching",
    "downloading": "downloading",
    "organizing": "organising data",
    "storing": "storing data",
}
ROLES = {
    "shared-lib": "a shared library",
    "devel-lib": "files for developers",
    "program": "a program",
    "documentation": "documentation",
    "app-data": "data of a program",
    "plugin": "a plug-in",
    "debug-symbols": "debugging symbols",
    "metapackage": "a bundle of packages",
}
LANGUAGES = {
    "perl": "Perl",
    "c": "C",
    "c++": "C++",
    "python": "Python",
    "lisp": "Lisp",
    "java": "Java",
    "ocaml": "OCaml",
    "shell": "shell",
}

TASKS: dict[str, Task] = {
    "movie": Task("sentences", _sentiment("a review of a film")),
    "editorial": Task("sentences", _sentiment("a newspaper's opinion")),
    "fortune-subject": Task("fortunes", _each("a saying about {}", SUBJECTS)),
    "noun-class": Task("wordnet", _each("the meaning of a word for {}", NOUNS)),
    "verb-class": Task("wordnet", _each("the meaning of a verb of {}", VERBS)),
    "part-of-speech": Task("wordnet", _each("the meaning of {}", SPEECH)),
    "field": Task("gcide", _each("a term of {}", FIELDS)),
    "author": Task("gcide", _each("a line by {}", AUTHORS)),
    "satire": Task(
        "gcide",
        {"plain": "a sober definition in a dictionary", "satire": "a cynical and satirical definition"},
    ),
    "jargon": Task(
        "computing",
        {"plain": "a technical term of computing", "jargon": "slang of hackers"},
    ),
    "speech-era": Task("speeches", _each("a president speaking {}", ERAS)),
    "speech-party": Task(
        "speeches",
        {"d": "a Democratic president speaking", "r": "a Republican president speaking"},
    ),
    "section": Task("packages", _each("a software package for {}", SECTIONS)),
    "use": Task("packages", _each("software for {}", USES)),
    "role": Task("packages", _each("a package that is {}", ROLES)),
    "written-in": Task("packages", _each("software written in {}", LANGUAGES)),
    "amazon": Task("sentences", _sentiment("a review of a product")),
    "tweets": Task("sentences", _sentiment("a message to friends")),
    "computing-topic": Task("computing", _each("a computing term about {}", TOPICS)),
    "works-with": Task("packages", _each("software that works with {}", WORKS)),
}
PAIRS = {"amazon": "movie", "tweets": "editorial", "computing-topic": "jargon", "works-with": "section"}
"""Held-out tasks, and the task whose patch may help with each."""
