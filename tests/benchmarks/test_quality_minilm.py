"""The real base of the experiments on quality, without it: parsers, splits, frozen heads, grids of alpha, and rules."""

import gzip
import hashlib
import io
import json
import math
import subprocess
import sys
import tarfile
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.quality.experiments import alphas
from benchmarks.quality.experiments.merging import Setting, Values
from benchmarks.quality.minilm import experiment, kind, parsers, pools, report, sources, tasks
from benchmarks.quality.minilm.kind import BREADCRUMBS, CORE, MORE, MiniLM
from benchmarks.quality.minilm.results import RULES, Run, fit
from benchmarks.quality.results import Results
from benchmarks.quality.worlds.kinds import Batch

ROOT = Path(__file__).parents[2]

# ---- texts


def test_sentences_are_rated():
    content = (
        "1\t2.5\tA joy from the first minute on.\n2\t-1.5\tDull, long and very loud.\n3\t0.1\tA film of an hour.\n"
    )
    assert list(parsers.rated(content)) == [
        ("positive", "A joy from the first minute on."),
        ("negative", "Dull, long and very loud."),
    ]


def test_glosses_have_a_class_and_no_example():
    content = (
        "  1 This software and database is licensed\n"
        '00006024 03 n 01 heterotroph 0 001 @ 00004475 n 0000 | an organism that eats; "most animals"  \n'
    )
    assert list(parsers.glosses(content)) == [("03", "an organism that eats")]


def test_entries_of_a_dictionary_are_read_by_its_index():
    content = b"header.first entry.second"
    index = "00-database-info\tA\tH\nalso\tH\tM\nfirst\tH\tM\nsecond\tT\tG\n"
    assert list(parsers.entries(index, content)) == ["first entry.", "second"]
    assert parsers.number("BA") == 64


GCIDE = """Abacus \\Ab"a*cus\\, n.; pl. {Abaci}. [L. abacus]
   1. A table or tray strewn with sand, anciently used for
      drawing, calculating, etc. [Obs.]
      [1913 Webster]

            In all her gates, Abaddon rues
            Thy bold attempt.                     --Milton.
      [1913 Webster]

   2. (Arch.)
      (a) The uppermost member of the capital of a
          {column}. --Gwilt.
      [1913 Webster]

   3. (Bot.) A plant that nobody has ever seen. [Obs.]
      [1913 Webster]
"""


def test_a_definition_has_a_field_and_a_quotation_an_author():
    assert list(parsers.fields(GCIDE)) == [("Bot.", "A plant that nobody has ever seen.")]
    assert list(parsers.plain(GCIDE)) == [
        ("plain", "A table or tray strewn with sand, anciently used for drawing, calculating, etc.")
    ]
    assert list(parsers.quotations(GCIDE)) == [("Milton", "In all her gates, Abaddon rues Thy bold attempt.")]


def test_satire_jargon_and_topics_are_the_first_words_of_an_entry():
    assert list(parsers.satire("LIAR, n.  A lawyer with a roving\ncommission.\n\n    A verse\n")) == [
        ("satire", "A lawyer with a roving commission.")
    ]
    slang = "back door\n n.\n\n    [common] A hole in the security of a\n    {system}.\n\n    Historically\n"
    assert list(parsers.jargon(slang)) == [("jargon", "A hole in the security of a system.")]
    term = "accumulator\n\n   <processor> A {register} in which results\n   are stored.\n\n   More\n"
    assert list(parsers.topics(term)) == [("processor", "A register in which results are stored.")]
    assert list(parsers.topics(term.replace("More", "[{Jargon File}]"))) == []


def test_sayings_speeches_and_packages():
    assert list(parsers.fortunes("law", "A saying about the law.\n%\nShort\n%\nAnother one about the law.\n")) == [
        ("law", "A saying about the law."),
        ("law", "Another one about the law."),
    ]
    long = "We meet again in this hall, and the state of the union is what we make of it together."
    speech = f"Thanks. {long} So be it."
    assert list(parsers.speeches("package/data/1801_thomas_jefferson_dr.txt", speech)) == [("1801", "dr", long)]
    listed = (
        "Package: a\nDescription: game of ancient warfare\nTag: role::program,\n use::gameplaying\nSection: games\n\n"
    )
    assert list(parsers.packages(listed)) == [
        ("game of ancient warfare", "games", ["role::program", "use::gameplaying"])
    ]


def test_a_text_is_in_one_pool_once_and_labels_are_balanced():
    many = [("positive", f"positive sentence {number}") for number in range(50)]
    few = [("negative", f"negative sentence {number}") for number in range(4)]
    made = pools.make_pools({"movie": iter(many + few + many), "amazon": iter(few + many)}, most=20)
    assert sorted(map(sum, zip(*[[1 - label, label] for label, _ in made["movie"]], strict=True))) == [4, 16]
    texts = {task: [text for _, text in pool] for task, pool in made.items()}
    assert len(texts["movie"]) == len(set(texts["movie"])) == 20
    assert not set(texts["movie"]) & set(texts["amazon"])
    assert made == pools.make_pools({"movie": iter(many + few + many), "amazon": iter(few + many)}, most=20)


def test_twenty_tasks_have_packages_and_the_held_out_ones_a_pair():
    assert len(tasks.TASKS) >= 20
    assert {task.group for task in tasks.TASKS.values()} == set(pools.GROUPS)
    assert set(tasks.PAIRS.values()) <= set(MiniLM().tasks)
    assert not set(tasks.PAIRS) & set(MiniLM().tasks)
    assert {rate.name for rate in kind.kinds()} == {"minilm-3e-5", "minilm-1e-4", "minilm-3e-4"}


def test_no_example_is_in_two_parts_and_a_seed_cuts_anew(monkeypatch):
    monkeypatch.setattr(kind, "pools_of", lambda task: [(number % 2, f"{task} {number}") for number in range(900)])
    monkeypatch.setattr(kind, "encode", lambda texts: torch.tensor([[int(text.split()[1])] for text in texts]))
    small = MiniLM(tasks=("movie", "section"), held_out=("amazon",))
    world, again, other = small.world(0), small.world(0), small.world(1)
    for task, parts in world.parts.items():
        rows = [set(part.x.flatten().tolist()) for part in (parts.tune, parts.validation, parts.test)]
        assert [len(part) for part in rows] == [900 - 96 - 160, 96, 160]
        assert len(set.union(*rows)) == 900
        assert torch.equal(parts.test.x, again.parts[task].test.x)
        assert not torch.equal(parts.test.x, other.parts[task].test.x)


# ---- packages


def package(command: list[str], content: bytes = b"") -> sources.Package:
    class Stand(sources.Package):
        def command(self, folder):
            return command

    return Stand("npm", "@made/up", "1.0", hashlib.sha256(content).hexdigest(), "none")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "FOLDER", tmp_path / "packages")
    return tmp_path / "packages"


def test_a_package_is_fetched_once_checked_and_read(folder, tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("package/data/one.txt", "package/two.js"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"abc"))
    content = gzip.compress(buffer.getvalue())
    (tmp_path / "made.tgz").write_bytes(content)
    monkeypatch.setitem(sources.PACKAGES, "made", package(["cp", str(tmp_path / "made.tgz"), "."], content))
    assert sources.read("made", lambda name: name.endswith(".txt")) == {"package/data/one.txt": b"abc"}
    (tmp_path / "made.tgz").unlink()
    assert sources.read("made", lambda name: "two" in name) == {"package/two.js": b"abc"}
    with pytest.raises(sources.Unavailable, match="none of the files"):
        sources.read("made", lambda name: False)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["sh", "-c", "echo no network >&2; exit 1"], r"cannot be fetched by npm \(no network\).*--kinds"),
        (["there-is-no-such-client"], "there-is-no-such-client is not installed"),
        (["touch", "file"], "has sha256 e3b0c44298fc.*, and .* is pinned"),
    ],
)
def test_a_package_that_cannot_be_had_is_told_in_a_sentence(folder, monkeypatch, command, said):
    monkeypatch.setitem(sources.PACKAGES, "made", package(command, b"something else"))
    with pytest.raises(sources.Unavailable, match=said) as error:
        sources.fetch("made")
    assert "\n" not in str(error.value)
    assert not list(folder.iterdir())


# ---- the model


class Encoder(nn.Module):
    """As a BertModel, with one layer."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(50, 8)
        self.layer = nn.Linear(8, 8)

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(last_hidden_state=self.layer(self.embeddings(input_ids)))


def test_heads_and_embeddings_stay_as_they_are(monkeypatch):
    torch.manual_seed(0)
    base = Encoder()
    monkeypatch.setattr(kind, "_base", lambda: base)
    monkeypatch.setattr(kind, "encode", lambda texts: torch.tensor([[len(text) % 40 + 1, 3, 0] for text in texts]))
    kind.head.cache_clear()
    small = MiniLM(batch=4)
    head = kind.head("movie").clone()
    x = torch.cat([torch.randint(1, 50, (16, 2)), torch.zeros(16, 1, dtype=torch.int64)], 1)
    batch = Batch(x, torch.arange(16) % 2, "movie")
    model = kind.freeze(Encoder(), small.frozen)
    small.loss(model, batch).backward()
    learned = {name for name, weights in model.named_parameters() if weights.grad is not None}
    assert learned == {"layer.weight", "layer.bias"}
    assert base.layer.weight.grad is None
    assert not head.requires_grad
    assert torch.allclose(head.norm(dim=1), torch.ones(2))
    assert 0 <= small.score(model, batch) <= 1
    padded = replace(batch, x=torch.nn.functional.pad(batch.x, (0, 5)))
    assert torch.allclose(kind.embed(model, batch.x), kind.embed(model, padded.x))
    kind.head.cache_clear()


# ---- grids


@pytest.mark.parametrize("best", [0.02, 0.3, 2.0, 7.5, 30.0])
def test_grids_go_on_while_their_edge_wins(best):
    def score(alpha: str) -> float:
        return -abs(math.log(float(alpha) / best))

    old = alphas.extend(("0.06", "0.1", "0.18", "0.3", "0.5", "0.9", "1.5"), score)
    found = alphas.search(score, 1.0, 1.7)
    for scores, ratio in ((old, 1.8), (found, 1.3)):
        top = max(scores, key=scores.__getitem__)
        assert 1 / ratio <= float(top) / best <= ratio
        assert list(scores) == sorted(scores, key=float)
    assert len(found) <= 16
    assert float(min(found, key=float)) < best < float(max(found, key=float))


def test_a_hill_that_is_higher_by_chance_does_not_hide_the_other():
    known = {"1": 0.98, "1.69": 0.84, "2.86": 1.0, "4.83": 0.9, "0.592": 1.1}
    found = alphas.search(lambda alpha: known.get(alpha, 0.5), 1.0, 2.2)
    assert alphas.best(found) == "0.592"


def test_grids_end_somewhere():
    up = alphas.search(lambda alpha: float(alpha), 1.0, 1.7)
    down = alphas.extend(("0.1", "0.3", "1"), lambda alpha: -float(alpha))
    assert alphas.MOST / 2 < max(map(float, up)) <= alphas.MOST
    assert alphas.LEAST <= min(map(float, down)) < 4 * alphas.LEAST
    assert alphas.beyond({"0.1": 0.5, "0.3": 0.5, "1": 0.5}) is None


def test_an_alpha_between_two_is_worth_what_lies_between_them():
    scores = {"1": 0.5, "4": 0.7}
    assert alphas.between(scores, [2.0, 9.0]).tolist() == pytest.approx([0.6, 0.7])
    assert alphas.inside(scores, 2.0) and not alphas.inside(scores, 9.0)
    assert alphas.best({"1": 0.5, "2": 0.7, "3": 0.7, "4": 0.7}) == "3"


def test_alpha_is_looked_for_between_keeping_it_and_sharing_it():
    counts = (1, 2, 4, 8, 16)
    assert experiment.bracket({}, counts, 1) == experiment.START
    assert experiment.bracket({1: "1.3", 2: "1"}, counts, 4) == (0.5, 1.0)
    assert experiment.bracket({1: "1.3", 2: "1", 4: "0.8", 8: "0.1"}, counts, 16) == (0.2, 0.8)


# ---- rules


def test_the_norm_of_a_sum_of_patches():
    one = Values("a", np.array([0, 2], np.int32), np.array([3.0, 4.0]))
    other = Values("b", None, np.array([0.0, 12.0, -4.0]))
    assert experiment.norm([one], 3) == 5
    assert experiment.norm([one, other], 3) == pytest.approx(math.sqrt(9 + 144))


def made_run(seed: int, factor: float) -> Run:
    """A run whose best alpha is factor x norm rule, at every number of tasks."""
    found = {}
    for count in (2, 4, 8):
        norms = {"patches": 1.0, "sum": math.sqrt(count) * (1 + seed / 10), "made": 1.0}
        top = factor * norms["patches"] / norms["sum"]
        scores = {f"{top * ratio:.6g}": 1 - abs(math.log(ratio)) for ratio in (0.25, 0.5, 1.0, 2.0, 4.0)}
        best = f"{top:.6g}"
        found[str(count)] = {"validation": scores, "best": best, "test": {best: 0.9}, "norms": norms}
    return Run("minilm-1e-4", seed, 0, found)


def test_the_rule_that_holds_has_no_regret_and_its_factor_is_found():
    runs = [made_run(seed, 1.6) for seed in (0, 1, 2)]
    rule = fit(runs, RULES["f x norm rule"], [2, 4, 8])
    assert rule.factor == pytest.approx(1.6, rel=0.03)
    assert max(value for values in rule.regrets.values() for value in values) < 0.03
    assert max(rule.others) < 0.03
    assert rule.outside == 0
    for name in ("one alpha", "c / n"):
        assert np.mean(list(fit(runs, RULES[name], [2, 4, 8]).regrets.values())) > 0.2
    assert runs[0].ratio(4) == 0.5
    assert runs[0].ratio(4, "made") == 1


def test_settings_are_named_apart():
    every = (*CORE, *MORE)
    assert len({setting.key for setting in every}) == len(every)
    assert all(setting.value_dtype == "BF16" and not setting.alpha for setting in every)
    assert experiment.step(BREADCRUMBS) == "merged breadcrumbs 0.85 0.007 BF16"
    assert Setting(**vars(BREADCRUMBS)) == BREADCRUMBS


# ---- the report


def made_order(rate: MiniLM, seed: int, number: int, setting: Setting) -> dict[str, object]:
    """What `experiment.merged` finds in an order; keeping alpha loses 0.02, rows gain 0.01."""
    found = {}
    for count in rate.counts:
        best, kept = ("1", "1") if count <= experiment.FEW else ("0.5", "1")
        scores = {"0.25": 0.7, "0.5": 0.8, "1": 0.78, "2": 0.6} if best == "0.5" else {"0.5": 0.7, "1": 0.8, "2": 0.7}
        top = 0.9 + 0.01 * (setting.granularity == "row") + 0.001 * seed + 0.0001 * number
        test = {kept: top - 0.02} | {best: top}
        norms = {"patches": 1.0, "sum": math.sqrt(count), "made": math.sqrt(count)}
        found[str(count)] = {"validation": scores, "best": best, "test": test, "norms": norms}
    return found


def made_world(rate: MiniLM, seed: int) -> dict[str, object]:
    accuracy = dict.fromkeys((*rate.tasks, *rate.held_out), 0.5)
    plain = {str(count): {"base": 0.8, "averaging": 0.85} for count in rate.counts}
    changes = {"of_layers": {"movie": 0.01}, "of_all": {"movie": 0.007}, "cosines": [0.1, 0.2]}
    lines = [{"start": "base", "task": task, "score": 0.4, "tuned": 0.5} for task in rate.held_out]
    world = {
        "kind": rate.name,
        "seed": seed,
        "scores": {"tuned": accuracy, "untuned": accuracy, "weights": 10_646_784},
        "changes": changes,
        "averaging": [plain] * rate.orders,
        "compositions": [{"same": True}, {"same": True}],
        "held-out": lines,
    }
    for setting in rate.settings:
        orders = [made_order(rate, seed, number, setting) for number in range(rate.orders)]
        size = 20_000_000 if setting == kind.WHOLE else 4_000_000
        world[experiment.step(setting)] = {"setting": vars(setting), "bytes": [size], "orders": orders}
    return world


def test_the_report_answers_the_five_questions():
    rates = kind.kinds()
    worlds = [made_world(rate, seed) for rate in rates for seed in range(rate.worlds)]
    document = {"plan": json.loads(json.dumps({"kinds": [asdict(rate) for rate in rates]})), "worlds": worlds}
    said = report.answers(Results(document))
    assert "sum 0.85/0.007 0.020 ± 0.000" in said
    assert "at 3e-4 and 16 tasks, sum less no mask with 5.0 times the bytes +0.000 ± 0.000" in said
    assert "at 3e-5 sum 0.95/0.007 by row +0.010 ± 0.000 and -0.017 ± 0.000 in 4.00 MB" in said
    assert "sum 0.85/0.007 by row +0.010 ± 0.000 and +0.000 ± 0.000 in 4.00 MB" in said
    assert "5. *How does it depend on the size of the change?* At 3e-5 (1.00 % of the layers' weights)" in said
    tables = report.section(Results(document))
    assert "Of 12 models that the product composed too, 12 had" in " ".join(tables.split())
    assert tables.count("regret on validation texts:") == len(rates) + 1
    assert "| base | 0.400 | 0.400 | 0.400 | 0.400 |" in tables

    sparse = experiment.step(kind.rows(kind.SPARSE))
    fewer = [{name: found for name, found in world.items() if world["seed"] == 0 or name != sparse} for world in worlds]
    some = Results(document | {"worlds": fewer})
    assert "at 3e-5 sum 0.95/0.007 by row (3 orders) +0.010 ± 0.000 and -0.017 ± 0.000" in report.answers(some)
    assert report.section(some).count("| sum 0.95/0.007 by row, 3 orders |") == len(rates)

    unfinished = [{name: found for name, found in world.items() if "TIES" not in name} for world in worlds]
    assert "ties" not in report.answers(Results(document | {"worlds": unfinished})).partition("3. *")[2]


# ---- all of it


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_little_of_the_real_base(tmp_path):
    command = [sys.executable, "-m", "benchmarks.quality", "--quick", "--kinds", "minilm", "--work", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=1000)
    if "cannot be fetched" in done.stderr or "apt has no list" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr[-2000:]
    report = (tmp_path / "README.md").read_text()
    assert report.count("## Five questions, on a real base") == 1
    assert "Of 2 models that the product composed too, 2 had" in " ".join(report.split())
