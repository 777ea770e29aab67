"""A patch that holds again what a release adds to the base is told apart from one that was learned on the base."""

from pathlib import Path
from typing import Any

import pytest
import torch

from registry.breadcrumbs.checking.repeats import check_repeats
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.db.tables import now
from registry.services.composing.repeats import main_release
from tests.support.community import Community
from tests.support.makers import changed, fine_tuned, make_checkpoint, make_patch, read_weights

pytestmark = pytest.mark.heavy


def on_top(base: Path, tuned: list[Path], folder: Path, alpha: float, seed: int, scale: float) -> Path:
    """Write what is tuned further from the base with a share of the changes of some models."""
    before, after = read_weights(base), [read_weights(each) for each in tuned]
    random = torch.Generator().manual_seed(seed)

    def move(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        release = sum(((each[name] - before[name]).float() for each in after), torch.zeros_like(tensor).float())
        learned = scale * torch.randn(tensor.shape, generator=random)
        return (tensor.float() + alpha * release + learned).to(tensor.dtype)

    return changed(base, folder, move)


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("count", [1, 3])
def test_what_was_tuned_from_a_release_is_told_apart(tmp_path: Path, count: int, granularity: str) -> None:
    base = make_checkpoint(tmp_path / "base", shapes={"w": (600, 64), "v": (64,), "sparse": (400, 64)})
    others = [fine_tuned(base, tmp_path / str(seed), seed) for seed in range(count)]
    for number, other in enumerate(others):
        make_patch(base, other, tmp_path / f"{number}.patch", drop_bottom="0.98" if number else "0.85")
    released = {"whole": 1.0, "weak": 0.3}
    for kind, alpha in released.items():
        scales = [(alpha, stack) for stack in (open_patch(tmp_path / f"{number}.patch") for number in range(count))]
        for repeats, models in ((True, others), (False, [])):
            tuned = on_top(base, models, tmp_path / f"{kind}{repeats}", alpha, 7, 0.002)
            make_patch(base, tuned, tmp_path / "own.patch", granularity=granularity)
            with open_patch(tmp_path / "own.patch") as own:
                found = check_repeats(own, "1.2.0", scales)
            assert (found.name, found.status) == ("release", "warn" if repeats else "pass"), found
            assert ("Tuned-From: 1.2.0" in found.summary) == repeats
        for _, each in scales:
            each.close()
    with open_patch(tmp_path / "0.patch") as own, open_patch(tmp_path / "0.patch") as same:
        assert check_repeats(own, "1", [(0.3, same)]).status == "pass"  # 3.3 times: not what the release adds
        assert check_repeats(own, "1", [(1.0, same)]).status == "warn"
        assert check_repeats(own, "1", []).status == "pass"


def found(crew: Community, number: int) -> dict[str, Any]:
    checks = crew.get(f"/patches/{number}/discussion")["checks"]
    return next((check for check in checks if check["name"] == "release"), {})


def test_whoever_pushes_what_was_tuned_from_the_release_is_told(sqlite_crew: Community, tmp_path: Path) -> None:
    crew = sqlite_crew
    assert found(crew, crew.push(crew.spares[0])["number"]) == {}  # there is no release
    crew.accept(1, 2)
    crew.publish("1.0.0", [1, 2])
    files = ["model.safetensors", "config.json"]
    released = tmp_path / "released"
    released.mkdir()
    for file in files:
        answer = crew.world.client("bob").get(f"/alice/tiny/resolve/1.0.0/{file}")
        (released / file).write_bytes(answer.content)
    tuned = fine_tuned(released, tmp_path / "tuned", 8, scale=0.001)
    make_patch(crew.base, tuned, tmp_path / "p.safetensors")
    number = crew.push(tmp_path / "p.safetensors")["number"]
    check = found(crew, number)
    assert (check["status"], check["required"]) == ("warn", False)
    assert "what release 1.0.0 adds to the base" in check["summary"]
    assert "`--tuned-from 1.0.0`" in check["summary"]
    assert found(crew, crew.push(crew.spares[1])["number"])["status"] == "pass"  # learned on the base
    with crew.world.database.read() as session:
        model, mine = crew.model(session), crew.revision(session, 1).patch_id
        compared = main_release(session, model, mine)
        assert compared is not None and (compared.version, [*compared.scales.values()]) == (
            "1.0.0",
            [0.3],
        )  # not its own
    crew.set(2, quarantined_at=now())
    with crew.world.database.read() as session:
        assert main_release(session, crew.model(session), mine) is None
