"""What the report says of the real base: five questions with their answers, and the tables behind them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.quality.experiments.bench import COMBINED
from benchmarks.quality.experiments.merging import Setting
from benchmarks.quality.minilm import results as found
from benchmarks.quality.minilm.kind import BREADCRUMBS, CORE, MAIN_RATE, MEAN, RANDOM, SPARSE, TIES, WHOLE, rows
from benchmarks.quality.minilm.results import (
    RULES,
    Fit,
    at_auto,
    automatic,
    fit,
    name_of,
    pairs,
    plain,
    rule_of,
    runs,
    settings,
)
from benchmarks.quality.results import Results
from benchmarks.quality.statistics import mean
from benchmarks.quality.worlds.kinds import REAL
from benchmarks.results import Table

MAIN = f"{REAL}-{MAIN_RATE}"


def interval(values: Sequence[float], digits: int = 3) -> str:
    """Write a mean with half of its 95 % interval."""
    centre, half = mean(values)
    return f"{centre:.{digits}f} ± {half:.{digits}f}" if len(values) > 1 else f"{centre:.{digits}f}"


def signed(values: Sequence[float]) -> str:
    """Write a mean difference with half of its 95 % interval."""
    centre, half = mean(values)
    return f"{centre:+.3f} ± {half:.3f}" if len(values) > 1 else f"{centre:+.3f}"


def below(parts: Sequence[str]) -> str:
    """Write one part below the other."""
    return "\n\n".join(parts)


def main_kind(results: Results) -> str:
    """Return the kind at the middle learning rate, or what there is."""
    known = found.kinds(results)
    return MAIN if MAIN in known else known[0]


def large(results: Results) -> list[int]:
    """Return the numbers of tasks above those at which alpha is chosen once."""
    one = runs(results, [main_kind(results)], BREADCRUMBS)[0]
    return [count for count in one.counts if count > one.chosen_at]


def composed(results: Results) -> list[int]:
    """Return the numbers of tasks at which there is something to compose."""
    return [count for count in results.kind(main_kind(results))["counts"] if count > 1]


def shown(kind: str) -> str:
    """Return the learning rate of a kind."""
    return kind.removeprefix(f"{REAL}-")


def answers(results: Results) -> str:
    """Say in a few sentences what was found."""
    kinds, counts, many = found.kinds(results), composed(results), large(results)
    every = runs(results, kinds, BREADCRUMBS)
    one = [
        f"{name_of(setting)} {interval([run.lost_by_keeping(n) for run in tried for n in many])}"
        for setting in CORE
        if many and (tried := runs(results, kinds, setting))
    ]
    few = every[0].chosen_at
    said = [
        f"1. *Is one alpha, chosen at {few} tasks, good at {' and '.join(map(str, many)) or 'more'}?* Keeping it loses "
        f"(normalised score, test, all learning rates): {', '.join(one) or 'not looked at'}."
    ]
    said.append(
        "2. *Against task arithmetic and TIES, at equal bytes?* "
        + "; ".join(_against(results, kind, max(counts)) for kind in kinds)
        + "."
    )
    said.append(f"3. *Which granularity and cuts?* {_cuts(results, kinds, counts)}")
    said.append(f"4. *Which rule for alpha needs nothing but the patches?* {_rules(results, kinds, counts)}")
    sizes = [
        f"at {shown(kind)} ({100 * _change(results, kind):.2f} % of the layers' weights) the default cuts score "
        f"{interval([run.score(max(counts)) for run in runs(results, [kind], BREADCRUMBS)])} at {max(counts)} tasks"
        for kind in kinds
    ]
    said.append(f"5. *How does it depend on the size of the change?* {'; '.join(sizes).capitalize()}.")
    return "## Five questions, on a real base\n\n" + "\n".join(said)


def _against(results: Results, kind: str, count: int) -> str:
    said = []
    for other in (WHOLE, TIES, MEAN, RANDOM):
        both = pairs(results, [kind], BREADCRUMBS, other)
        if both:
            size = found.size(results, kind, other) / found.size(results, kind, BREADCRUMBS)
            bytes_ = f" with {size:.1f} times the bytes" if size > 1.1 else ""
            said.append(
                f"less {name_of(other)}{bytes_} {signed([one.score(count) - two.score(count) for one, two in both])}"
            )
    return f"at {shown(kind)} and {count} tasks, sum {', '.join(said)}"


def _cuts(results: Results, kinds: Sequence[str], counts: Sequence[int]) -> str:
    said = []
    for kind in kinds:
        each = []
        for setting in settings(results, kind):
            if setting.method == BREADCRUMBS.method and setting != BREADCRUMBS:
                gained, gained_at_auto = gains(results, [kind], setting, counts)
                size = found.size(results, kind, setting) / 1e6
                orders = f" ({len(gained)} orders)" if len(gained) < len(runs(results, [kind], BREADCRUMBS)) else ""
                each.append(
                    f"{name_of(setting)}{orders} {signed(gained)} and {signed(gained_at_auto)} in {size:.2f} MB"
                )
        size = found.size(results, kind, BREADCRUMBS) / 1e6
        said.append(f"at {shown(kind)} {', '.join(each) or 'nothing else'}, the default {size:.2f} MB")
    return (
        f"Less the default cuts, mean over {' '.join(map(str, counts))} tasks, at the best alpha on test texts and at "
        f"alpha auto on validation texts, interval over the orders: {'; '.join(said)}."
    )


def gains(
    results: Results, kinds: Sequence[str], setting: Setting, counts: Sequence[int]
) -> tuple[list[float], list[float]]:
    """Return what a setting gains on the default cuts, by order: at its best alpha, and at alpha auto."""
    both = pairs(results, kinds, setting, BREADCRUMBS)
    best = [float(np.mean([one.score(n) - two.score(n) for n in counts])) for one, two in both]
    auto = [
        float(np.mean([at_auto(one, setting, n) - at_auto(two, BREADCRUMBS, n) for n in counts])) for one, two in both
    ]
    return best, auto


def _rules(results: Results, kinds: Sequence[str], counts: Sequence[int]) -> str:
    said = []
    for setting in (BREADCRUMBS, rows(BREADCRUMBS), rows(SPARSE), TIES, MEAN):
        tried = runs(results, kinds, setting)
        if tried:
            rules = ("one alpha", "c / n", "f x norm rule", rule_of(setting))
            fits = {name: fit(tried, RULES[name], counts) for name in rules}
            fits["alpha auto"] = automatic(tried, setting, counts)
            each = ", ".join(f"{name} with {f.factor:.2f} loses {_regret(f)}" for name, f in fits.items())
            said.append(f"{name_of(setting)}: {each}")
    return "; ".join(said) + " (mean regret on validation texts)."


def _regret(one: Fit) -> str:
    return interval([value for values in one.regrets.values() for value in values])


def _change(results: Results, kind: str) -> float:
    return float(np.mean([list(world["changes"]["of_layers"].values()) for world in results.worlds(kind)]))


def section(results: Results) -> str:
    """Return the tables."""
    return below([part(results) for part in (_what, _scores, _kept, _rule_tables, _tuned, _held_out, _sources)])


def _what(results: Results) -> str:
    lines = []
    for kind in found.kinds(results):
        worlds, tasks = results.worlds(kind), results.kind(kind)["tasks"]
        base, tuned = (
            float(np.mean([world["scores"][which][task] for world in worlds for task in tasks]))
            for which in ("untuned", "tuned")
        )
        whole = float(np.mean([list(world["changes"]["of_all"].values()) for world in worlds]))
        cosine = float(np.mean([np.mean(world["changes"]["cosines"]) for world in worlds]))
        cells = [f"{100 * _change(results, kind):.2f} %", f"{100 * whole:.2f} %", f"{cosine:.3f}"]
        lines.append([shown(kind), *cells, f"{base:.3f}", f"{tuned:.3f}"])
    columns = ["learning rate", "of the layers", "of all weights", "cosine", "zero-shot", "fine-tuned"]
    title = "Size of the change, norm(difference) / norm(base), cosine between two tasks' differences, and accuracy"
    text = Table(title, columns, lines).markdown()
    one, kinds = results.kind(main_kind(results)), found.kinds(results)
    weights = results.worlds(kinds[0])[0]["scores"]["weights"] / 1e6
    made = [line for kind in kinds for world in results.worlds(kind) for line in world.get("compositions", [])]
    tasks, held_out = ", ".join(one["tasks"]), ", ".join(one["held_out"])
    return f"""## The real base

MiniLM-L6, {weights:.1f} M trained weights of 22.7 M, fine-tuned for {one["tune_steps"]} steps of {one["batch"]} texts.
Heads are sentences, embedded by the base and frozen. Embeddings are frozen too: they are half of the weights, and a
short fine-tuning touches only the rows of the words it sees. Values are BF16. ± is half of a 95 % interval over
{one["orders"]} orders of each of {one["worlds"]} seeds; it is too narrow where all tasks are composed, since the orders
of a seed hold the same set there. Scores are normalised: 1 is the task's own fine-tuned model.
Models are scored in bfloat16 where the processor has it, and trained in float32. Of {len(made)} models that the product
composed too, {sum(line["same"] for line in made)} had the very weights that are evaluated here.

* Contributed: {tasks}.
* Held out: {held_out}.

{text}"""


def _scores(results: Results) -> str:
    tables = []
    for kind in found.kinds(results):
        counts, lines = results.kind(kind)["counts"], []
        for name in ("base", "averaging"):
            lines.append([name, "", *(interval(plain(results, kind, name, n)) for n in counts), ""])
        for setting in settings(results, kind):
            tried = runs(results, [kind], setting)
            best = [f"{np.exp(np.mean(np.log([run.best_alpha(n) for run in tried]))):.2f}" for n in counts]
            scores = [interval([run.score(n) for run in tried]) for n in counts]
            fewer = f", {len(tried)} orders" if len(tried) < len(runs(results, [kind], BREADCRUMBS)) else ""
            lines.append(
                [name_of(setting) + fewer, f"{found.size(results, kind, setting) / 1e6:.2f}", *scores, " ".join(best)]
            )
        columns = ["method and cuts", "MB", *(f"{n} tasks" for n in counts), "best alphas"]
        tables.append(Table(f"{shown(kind)}, mean normalised score on test texts", columns, lines).markdown())
    return below(["### Scores at the best alpha", "![scores](figures/real-base.svg)", *tables])


def _kept(results: Results) -> str:
    many, lines = large(results), []
    if not many:
        return "### One alpha\n\nNot looked at in this run."
    for kind in found.kinds(results):
        for setting in settings(results, kind):
            tried = runs(results, [kind], setting)
            cells = [interval([run.lost_by_keeping(n) for run in tried]) for n in many]
            lines.append([f"{shown(kind)}, {name_of(setting)}", *cells])
    few = runs(results, [main_kind(results)], BREADCRUMBS)[0].chosen_at
    title = f"Test score lost by keeping the alpha that was best at {few} tasks"
    return below(["### One alpha", Table(title, ["", *(f"{n} tasks" for n in many)], lines).markdown()])


def _rule_tables(results: Results) -> str:
    counts, tables = composed(results), []
    groups = {shown(kind): [kind] for kind in found.kinds(results)}
    if len(groups) > 1:
        groups["all rates"] = found.kinds(results)
    for title, kinds in groups.items():
        lines = []
        for setting in settings(results, kinds[0]):
            tried = runs(results, kinds, setting)
            if len({run.kind for run in tried}) < len(kinds):
                continue
            fits = {
                name: fit(tried, rule, counts)
                for name, rule in RULES.items()
                if setting.method in COMBINED or not name.endswith("made")
            }
            for name, one in (fits | {"alpha auto": automatic(tried, setting, counts)}).items():
                cells = [f"{np.mean(one.regrets[n]):.3f}" for n in counts]
                worst = max(value for values in one.regrets.values() for value in values)
                others = interval(one.others) if one.others else ""
                outside = f"{100 * one.outside:.0f} %"
                head = [f"{name_of(setting)}, {name}", f"{one.factor:.2f}"]
                lines.append([*head, *cells, _regret(one), f"{worst:.3f}", others, outside])
        columns = ["", "factor", *(f"{n} tasks" for n in counts), "mean", "worst", "factor of other worlds", "outside"]
        tables.append(Table(f"{title}, regret on validation texts", columns, lines).markdown())
    return f"""### Rules for alpha

Each rule has one factor, chosen to lose least on average; in the last but one column, chosen on the other worlds. Norm
rule: alpha = f x mean norm of the patches / norm of their sum; `of what is made`: / norm of what ties or mean makes of
them. The last two rules look at the norm of the base, too; alpha auto is one of them with the registry's constant, 0.3
for the default cuts and 0.3 x (0.143 / kept)^0.4 for others.
Between the alphas that were
tried, scores are interpolated over log alpha; `outside` is the part of alphas beyond those tried, whose regret is
understated.

{below(tables)}"""


def _tuned(results: Results) -> str:
    lines = []
    for kind in found.kinds(results):
        for world in results.worlds(kind):
            for line in world.get("tuned", []):
                auto, best = line["auto"], line["tuned"]
                cells = [auto["alpha"], best["alpha"], " ".join(best["weights"]), str(line["tried"])]
                cells += [f"{one[part]:.3f}" for part in ("validation", "test") for one in (auto, best)]
                lines.append([f"{shown(kind)}, seed {world['seed']}, {line['count']} tasks", *cells])
    columns = ["", "alpha auto", "alpha", "weights", "models", "validation: auto", "tuned", "test: auto", "tuned"]
    title = (
        "What `crumb tune` finds from alpha auto by its score on validation texts, and what comes of it on test texts"
    )
    return below(["### Tuned", Table(title, columns, lines).markdown() if lines else "Not looked at in this run."])


def _held_out(results: Results) -> str:
    tables = []
    for kind in found.kinds(results):
        lines: list[dict[str, Any]] = [line for world in results.worlds(kind) for line in world.get("held-out", [])]
        tasks, starts = results.kind(kind)["held_out"], dict.fromkeys(line["start"] for line in lines)
        table = []
        for start in starts:
            values = [[x["score"] for x in lines if (x["start"], x["task"]) == (start, task)] for task in tasks]
            cells = [f"{np.mean(scores):.3f}" if scores else "" for scores in values]
            table.append([start, *cells])
        if lines:
            cells = [f"{np.mean([x['tuned'] for x in lines if x['task'] == task]):.3f}" for task in tasks]
            table.append(["its own fine-tuning", *cells])
            tables.append(Table(f"{shown(kind)}, accuracy on test texts", ["start", *tasks], table).markdown())
    return f"""### Held-out tasks, untrained

All tasks composed, at the alpha that is best for them; `the pair's patch` is that of the task that could help, alone.

{below(tables)}"""


def _sources(results: Results) -> str:
    lines = [
        [source["name"], source["version"], source["sha256"][:12], source["licence"]]
        for source in results.document.get("sources", [])
    ]
    table = Table("What the base and the texts come from", ["package", "version", "sha256", "licence"], lines)
    return below(["### Packages", table.markdown()])
