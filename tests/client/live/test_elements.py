"""Elements of tensors, where they are in a module that runs."""

from pathlib import Path

import pytest
import torch

from client.live import naming
from client.live.elements import CODES, FlatTensor, Scattered, Strided, place_of
from client.live.naming import find_places
from registry.errors import InvalidRequest
from tests.support.live_makers import load, make_dinov2


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("regular", [True, False])
def test_elements_of_any_dtype_are_read_and_written_where_they_are(dtype: torch.dtype, regular: bool) -> None:
    width = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 2, (2, 24 * width), dtype=torch.uint8)
    one, other = (row.clone().view(dtype) for row in raw)
    sources = [FlatTensor(one, 0), FlatTensor(other, 24)]
    places = torch.arange(24, 48, dtype=torch.int32).view(4, 6)[1:3].t()
    if not regular:
        places = torch.cat([places, torch.arange(2, dtype=torch.int32).view(1, 2)])
    place = place_of(sources, places)
    assert isinstance(place, Strided if regular else Scattered)
    assert (place.dtype, place.shape) == (dtype, tuple(places.shape))
    size = places.numel()
    held = torch.empty(size, dtype=dtype)
    place.read(0, held)
    whole = torch.cat([one.view(torch.uint8), other.view(torch.uint8)]).view(-1, width)
    assert torch.equal(held.view(torch.uint8).view(-1, width), whole[places.reshape(-1).long()])
    new = torch.randint(0, 2, (size * width,), dtype=torch.uint8).view(dtype)
    place.write(0, new[:5])
    place.write(5, new[5:])
    place.read(0, held)
    assert torch.equal(held.view(torch.uint8), new.view(torch.uint8))
    kept = torch.cat([one.view(torch.uint8), other.view(torch.uint8)]).view(-1, width)
    others = [at for at in range(48) if at not in places.reshape(-1).tolist()]
    assert torch.equal(kept[others], whole[others])


def test_what_cannot_be_followed_into_new_tensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(make_dinov2(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(naming, "MOST", 10)
        with pytest.raises(InvalidRequest, match="save it, and work with the files"):
            find_places(module)
    for parameter in module.parameters():
        if parameter.dim() == 2:
            parameter.data = parameter.data.t().contiguous().t()
    with pytest.raises(InvalidRequest, match="is not contiguous"):
        find_places(module)
