from pathlib import Path

import pytest
import torch

from tests.support.makers import changed, make_checkpoint, make_patch
from tests.support.world import World, create_model, push_patch

pytestmark = pytest.mark.heavy

MODEL = "alice/convolutions"
VARIANCE = "bn.running_var"


def shrink(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.abs() * 0.3 if name == VARIANCE else tensor


@pytest.fixture
def pushed(world: World, tmp_path: Path) -> World:
    """A model with a batch norm, and a patch that takes 70 % of its variances away."""
    base = make_checkpoint(tmp_path / "start", shapes={VARIANCE: (16,), "conv.weight": (16, 3)})
    base = changed(base, tmp_path / "base", lambda name, tensor: tensor.abs() + 0.1 if name == VARIANCE else tensor)
    make_patch(base, changed(base, tmp_path / "tuned", shrink), tmp_path / "p", drop_bottom="0", drop_top="0")
    create_model(world, MODEL, base)
    assert push_patch(world, MODEL, tmp_path / "p")["check"] == "checked"
    return world


def compose(world: World, alpha: str) -> tuple[list[str], list[str], str]:
    """Return the warnings of a composition, those of what is pulled, and its page."""
    client, body = world.client(), {"alpha": alpha, "patches": [{"number": 1}]}
    assert client.post(f"/api/v1/models/{MODEL}/compositions", json=body).json()["warnings"] == []
    world.work()
    done = client.post(f"/api/v1/models/{MODEL}/compositions", json=body).json()
    snapshot = client.get(f"/api/v1/models/{MODEL}/revisions/{done['recipe']['digest']}").json()
    page = client.get(f"/{MODEL}/recipes/{done['recipe']['digest']}", headers={"Accept": "text/html"}).text
    return done["warnings"], snapshot["warnings"], page


def test_variances_that_became_negative_are_told_with_the_composition(pushed: World) -> None:
    (warning,), pulled, page = compose(pushed, "2")
    assert warning.startswith(f"16 variances are negative that were not in the base: '{VARIANCE}' (16).")
    assert pulled == [warning]
    assert "16 variances are negative" in page


def test_a_composition_with_sound_variances_has_no_warnings(pushed: World) -> None:
    warnings, pulled, page = compose(pushed, "1")
    assert warnings == pulled == []
    assert "negative" not in page
