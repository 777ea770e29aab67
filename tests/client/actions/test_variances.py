import torch

from tests.support import makers
from tests.support.visitors import Crumb


def test_apply_tells_of_variances_that_became_negative(crumb: Crumb) -> None:
    base = makers.make_checkpoint(crumb.cwd / "start", shapes={"bn.running_var": (8,), "w": (8, 8)})
    base = makers.changed(
        base, crumb.cwd / "base", lambda name, tensor: tensor.abs() + 0.1 if "var" in name else tensor
    )

    def shrink(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor * 0.3 if "var" in name else tensor

    makers.changed(base, crumb.cwd / "tuned", shrink)
    crumb("diff", "base", "tuned", "-o", "p.safetensors", "--drop-bottom", "0", "--drop-top", "0")
    applied = crumb.json("apply", "base", "p.safetensors", "-o", "sound", "--alpha", "1")
    assert applied["warnings"] == []
    assert "negative" not in crumb.errors
    applied = crumb.json("apply", "base", "p.safetensors", "-o", "broken", "--alpha", "2")
    assert applied["warnings"][0].startswith(
        "8 variances are negative that were not in the base: 'bn.running_var' (8)."
    )
    assert applied["warnings"][0] in crumb.errors
    assert min(makers.read_weights(crumb.cwd / "broken")["bn.running_var"]) < 0
