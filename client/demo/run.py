"""`crumb demo`: the whole product on this machine, in about a minute.

    server, users ──┐
    digits -> base -> six fine-tuned models -> six patches, pushed by six people -> tuned on the validation part
           -> composed at the registry -> pulled, verified, composed here too -> accuracies on the test part

Everything that a contributor or a user does goes through the same functions as `crumb`, over HTTP. Beside it stand what
people do without a registry: the average and the plain sum of whole fine-tuned models, the latter tuned by the same
code, on the same data, from as many models. Seeds are fixed; what is shown was neither trained nor chosen on the test
part, and is shown as it comes out.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from client.api.client import Client
from client.demo import roles
from client.demo.picture import check_writable, write_picture
from client.demo.report import MEAN, DemoOutcome, sentences, show
from client.demo.server import start
from client.terminal.console import Console
from client.trials.searching import Setting
from registry.breadcrumbs.comparing.alpha import AUTO
from registry.errors import WrongState
from registry.extras import require_extra

OWNER = "mira"
CONTRIBUTORS = ("ada", "ben", "chloe", "dov", "emeka", "fumi")


def run_demo(keep: Path | None, json_output: bool, quiet: bool) -> None:
    """Run the demo, print its report and write its picture.

    Args:
        keep: An empty or new folder that keeps everything; when None, a temporary one is removed at the end, and the
            picture alone is written, to the current folder.
        json_output: Print one JSON document with all numbers.
        quiet: Print only recipe and weights digest of each composed model, at the end.

    Raises:
        MissingExtra: The libraries that train are not installed.
        WrongState: `keep` is not empty.
        StorageFailed: The folder takes no picture.
    """
    require_extra("demo")
    console = Console(json_output, quiet)
    with _room(keep) as folder:
        pictures = Path.cwd() if keep is None else keep
        check_writable(pictures)
        outcome = play(folder, console)
    picture = write_picture(outcome, pictures)
    document = {**asdict(outcome), "sentences": sentences(outcome), "picture": str(picture)}
    brief = "\n".join(f"{merge.recipe} {merge.weights_digest}" for merge in outcome.merges.values())
    console.result(document, "", brief)
    if json_output or quiet:
        return
    show(outcome)
    print(f"\nThe same as a picture: {picture}")
    if keep is not None:
        print(f"Everything is in {keep}. Serve it again: crumb-server serve --data {keep / 'registry'}")


def play(folder: Path, console: Console) -> DemoOutcome:
    """Play all parts in a folder: the operator, the maintainer, six contributors and a user."""
    clock = Clock()
    with start(folder / "registry") as registry, contextlib.ExitStack() as stack:
        stack.enter_context(_own_cache(folder / "crumb"))
        console.note(f"A registry answers at {registry.url}.")
        tokens = registry.users((OWNER, *CONTRIBUTORS))  # made while the base trains

        console.note("Loading torch and transformers, and training the base to read digits ...")
        from client.demo import models, tasks

        digits = tasks.load_parts()
        models.train_base(digits, folder / "base")
        clock.lap("base")

        clients = {user: stack.enter_context(Client(registry.url, token)) for user, token in tokens.result().items()}
        console.note(f"{OWNER} creates {roles.MODEL} with this base.")
        base = roles.create_model(clients[OWNER], folder / "base")
        patches = []
        for author, task in zip(CONTRIBUTORS, tasks.TASKS, strict=True):
            console.note(f"{author} teaches it the question '{task}', and pushes the patch ...")
            patches.append(roles.contribute(clients[author], author, task, digits, folder))
        clock.lap("fine-tuning and pushing")

        def score(model: Path) -> float:
            return models.percent(models.answer(model, digits.validation))[MEAN]

        console.note("Alpha and weights are tuned on the validation part, of patches and of whole differences ...")
        tuned = roles.tune_patches(clients[OWNER], patches, score)
        whole = roles.whole_differences(folder, tasks.TASKS)
        tuned_whole = roles.tune_whole(whole, score, folder)
        clock.lap("tuning")

        console.note("Composing by alpha auto, and as tuned; pulling, verifying, and asking about the test part ...")
        auto = roles.merge(clients[OWNER], patches, Setting(AUTO, ("1",) * len(patches)), "auto", folder)
        best = roles.merge(clients[OWNER], patches, tuned.best.setting, "tuned", folder)
        hits = {
            "base": models.answer(folder / "base", digits.test),
            "fine_tuned": models.answer_each(
                {task: roles.tuned_folder(folder, task) for task in tasks.TASKS}, digits.test
            ),
            "average": models.answer(roles.add_whole(whole, roles.even(len(whole)), "average", folder), digits.test),
            "plain_sum": models.answer(roles.add_whole(whole, tuned_whole.best.setting, "sum", folder), digits.test),
            "composed": models.answer(folder / "pulled" / "auto", digits.test),
            "composed_tuned": models.answer(folder / "pulled" / "tuned", digits.test),
        }
        clock.lap("composing, pulling and asking")
    return DemoOutcome(
        base=base,
        images={name: len(part.images) for name, part in vars(digits).items()},
        tasks=tasks.TASKS,
        digit=tasks.DIGIT,
        patches=patches,
        merges={"composed": auto, "composed_tuned": best},
        accuracy={name: models.percent(found) for name, found in hits.items()},
        chosen={"plain_sum": tuned_whole.best.setting, "composed_tuned": tuned.best.setting},
        tried={"plain_sum": len(tuned_whole.tried), "composed_tuned": len(tuned.tried)},
        margin=models.margin(hits["composed_tuned"], hits["plain_sum"]),
        seconds=clock.stop(),
    )


class Clock:
    """The time of each part, in seconds."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """End a part and record its time."""
        now = time.monotonic()
        self.laps[name], self.last = round(now - self.last, 2), now

    def stop(self) -> dict[str, float]:
        """Return all parts, and the whole as `all`."""
        return {**self.laps, "all": round(time.monotonic() - self.start, 2)}


@contextlib.contextmanager
def _room(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="crumb-demo-") as folder:
            yield Path(folder)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise WrongState(f"{keep} exists and is not empty; name a new folder.")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep


@contextlib.contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """Keep what is downloaded out of this person's own cache, until the block ends."""
    before = os.environ.get("CRUMB_HOME")
    os.environ["CRUMB_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["CRUMB_HOME"]
        else:
            os.environ["CRUMB_HOME"] = before
