"""Take the pictures of guides/tour.md: `python docs/screenshots.py`, with Debian's chromium installed.

What they show is a registry of the tests' kind: real server, workers and database, a small model with real patches,
pushed, reviewed, released and analysed by the same calls as ever. Only the names are made up.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402
from playwright.sync_api import Browser, Page  # noqa: E402

from registry.db.session import migrate  # noqa: E402
from registry.worker.worker import Worker  # noqa: E402
from tests.support.browsers import Site, running_browser, serving_site  # noqa: E402
from tests.support.community import Community  # noqa: E402
from tests.support.hubs import make_llama  # noqa: E402
from tests.support.makers import changed, make_patch  # noqa: E402
from tests.support.world import World, create_model, open_world, push_patch  # noqa: E402

NAME = "acme/tiny-llama"
PATCHES = (  # who, what, for which task, which projections it moves most, and where its steps point
    ("bob", "Two-digit sums", "math/sums", "mlp", 1),
    ("carol", "Answers in French", "language/french", "self_attn", 2),
    ("dave", "SQL from questions", "code/sql", "mlp", 3),
    ("bob", "Three-digit sums", "math/sums", "mlp", 1),
    ("erin", "Polite refusals", "chat/refusals", "self_attn", 4),
    ("carol", "German, too", "language/german", "self_attn", 2),
)
TASKS = (  # what was measured: task, dataset, metric, whether higher is better
    ("gsm8k (5-shot)", "openai/gsm8k", "exact_match,strict-match", True),
    ("xquad_fr (0-shot)", "google/xquad/fr", "f1", True),
    ("spider (0-shot)", "xlangai/spider", "execution_accuracy", True),
    ("wikitext (0-shot)", "EleutherAI/wikitext_document_level", "word_perplexity", False),
)
MEASURED = {
    "base": (0.21, 0.34, 0.18, 12.31),
    "#1": (0.44, 0.30, None, 12.92),
    "#2": (0.20, 0.58, None, 12.55),
    "#3": (None, None, 0.41, 13.14),
    "1.0.0": (0.39, 0.54, 0.19, 12.71),
    "1.1.0": (0.38, 0.53, 0.37, 12.98),
}
WIDE, NARROW = 1200, 400


def tuned(base: Path, folder: Path, seed: int, most: str, way: int) -> Path:
    """Write a fine-tuned model whose steps are larger in some projections; those of one way agree in part."""
    own, common = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(1000 + way)

    def move(name: str, tensor: torch.Tensor) -> torch.Tensor:
        shared, private = (torch.randn(tensor.shape, generator=random) for random in (common, own))
        layer = int(name.split(".")[2]) if "layers" in name else 0
        scale = 0.01 * (2.5 if most in name else 0.8) * (1 + layer)
        return (tensor.double() + scale * (0.7 * shared + 0.7 * private)).to(tensor.dtype)

    return changed(base, folder, move)


def fill(world: World, folder: Path) -> None:
    """Make a model with people, patches in all states, two releases and a channel."""
    where = f"/api/v1/models/{NAME}"
    owner, second = world.client("alice"), Worker(world.settings, world.database, world.store)
    world.token("chief", admin=True)

    def call(user: str, method: str, path: str, **body: object) -> None:
        answer = world.client(user).request(method, f"{where}{path}", json=body or None)
        assert answer.is_success, (path, answer.text)

    assert owner.post("/api/v1/namespaces", json={"name": "acme"}).status_code == 201
    base = make_llama(folder / "base", 1, shards=1)
    create_model(world, NAME, base, "alice")
    for user, role in (("rita", "reviewer"), ("mary", "maintainer")):
        world.token(user)
        call("alice", "PUT", f"/members/{user}", role=role)
    for number, (user, title, task, most, way) in enumerate(PATCHES, 1):
        out = folder / f"{number}.safetensors"
        make_patch(base, tuned(base, folder / f"tuned{number}", number, most, way), out)
        message = "Fine-tuned for one epoch on **12,000 examples**, learning rate 2e-5.\n\n* no data of users\n* seed 7"
        push_patch(
            world, NAME, out, user, title=title, task=task, license="apache-2.0", message=message, propose=number < 6
        )
    for number in (1, 2, 3):
        call("rita", "POST", f"/patches/{number}/reviews", verdict="approve", revision=1, message="Reproduced.")
        call("mary", "POST", f"/patches/{number}/accept", message="")
    call("rita", "POST", "/patches/4/comments", message="Is this better than #1 on two digits?")
    call("bob", "POST", "/patches/4/comments", message="By two points; see the evaluations.")
    for ref, values in (("base", (0.31, 0.52)), ("#4", (0.58, 0.51)), ("#2", (0.30, 0.61))):
        measure(call, ref, values)
    call("bob", "POST", "/conflicts", patches=[{"number": number} for number in range(1, 7)])
    world.work()  # which alpha auto goes by
    for version, numbers, values in (("1.0.0", (1, 2), (0.49, 0.60)), ("1.1.0", (1, 2, 3), (0.47, 0.63))):
        call("mary", "POST", "/releases", version=version, patches=[{"number": number} for number in numbers])
        world.work()
        while second.step():
            pass
        measure(call, version, values)
        call("mary", "POST", f"/releases/{version}/publish")
        call("mary", "PUT", "/channels/stable", version=version, reason="Better on the board.")
    for ref, scores in MEASURED.items():
        named = zip(TASKS, scores, strict=True)
        call(
            "mary",
            "PUT",
            "/evaluations",
            ref=ref,
            scores=[
                {"task": task, "dataset": dataset, "metric": metric, "value": value, "higher_is_better": higher}
                for (task, dataset, metric, higher), value in named
                if value is not None
            ],
        )
    recipe = {"alpha": "0.6", "patches": [{"number": 1}, {"number": 2}, {"number": 3, "weight": "0.5"}]}
    composed = world.client("mary").post(f"{where}/compositions", json=recipe).json()["recipe"]["digest"]
    world.work()
    task, dataset, metric, _ = TASKS[0]
    score = {"task": task, "dataset": dataset, "metric": metric, "value": 0.41, "stderr": 0.013}
    call("mary", "POST", "/evaluations", ref=composed, tried=14, **score)


def measure(call: object, ref: str, values: tuple[float, float]) -> None:
    """Record what was measured of something."""
    for dataset, value in zip(("sums", "polite-board"), values, strict=True):
        call(  # type: ignore[operator]
            "mary",
            "POST",
            "/evaluations",
            ref=ref,
            task="text-generation",
            dataset=dataset,
            metric="accuracy",
            value=value,
        )


@contextmanager
def running(browser: Browser) -> Iterator[Site]:
    """Serve the registry of the pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'registry.db'}"
        migrate(url)
        with open_world(folder / "data", url, part_bytes=2**20) as world:
            fill(world, folder)
            with serving_site(Community(world, folder / "base", []), browser) as site:
                yield site


def shoot(page: Page, name: str) -> None:
    """Write the picture of a page."""
    page.wait_for_load_state("networkidle")
    page.screenshot(path=HERE / "pictures" / f"{name}.png", full_page=True)
    page.context.close()


def main() -> None:
    """Take all pictures."""
    with running_browser() as browser, running(browser) as site:
        home = f"/{NAME}"
        shoot(site.open(None, "/", width=WIDE, color_scheme="light"), "home")
        shoot(site.open(None, home, width=WIDE, color_scheme="light"), "model")
        shoot(site.open("rita", f"{home}/patches/4", width=WIDE, color_scheme="light"), "patch")
        shoot(site.open(None, f"{home}/patches/1/compare/4", width=WIDE, color_scheme="light"), "compare")
        chosen = "&".join(f"patch={number}" for number in range(1, 7))
        shoot(site.open(None, f"{home}/conflicts?{chosen}", width=WIDE, color_scheme="dark"), "conflicts")
        page = site.open("mary", f"{home}/recipes/new?patch=1&patch=4&w4=0.5", width=WIDE, color_scheme="light")
        shoot(page, "builder")
        shoot(site.open("mary", f"{home}/releases/1.1.0", width=WIDE, color_scheme="light"), "release")
        shoot(site.open(None, f"{home}/evaluations", width=WIDE, color_scheme="light"), "evaluations")
        shoot(site.open("mary", f"{home}/inbox", width=NARROW, color_scheme="dark"), "inbox")
        shoot(site.open("chief", "/admin", width=WIDE, color_scheme="dark"), "admin")


if __name__ == "__main__":
    main()
