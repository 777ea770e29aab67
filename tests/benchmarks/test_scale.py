"""The model of a large community: what has to be so whatever is assumed."""

from dataclasses import replace

import pytest

from benchmarks.server.scale import measured_composing
from benchmarks.server.simulated_day import GB, WAYS, Assumed, Composing, day

SMALL = Assumed(recipes=300, nodes=3, models=20, cache=60 * GB)
COMPOSING = Composing(3.0 / GB, 2.0 * GB, 0.2)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_every_recipe_is_done_and_every_byte_is_counted(way) -> None:
    found = day(SMALL, COMPOSING, way)
    assert len(found.seconds) == SMALL.recipes
    assert min(found.seconds) > 0
    assert found == day(SMALL, COMPOSING, way), "the same day again"
    alone = day(replace(SMALL, cache=0.0), COMPOSING, way)
    assert alone.hits == 0
    assert alone.read == pytest.approx(found.read + found.hits)
    assert (found.written > 0) is way.held
    assert found.running <= sum(found.seconds)


def test_work_that_goes_where_its_base_is_is_fetched_less_often() -> None:
    any_worker, near, whole, entries, _ = (day(SMALL, COMPOSING, way) for way in WAYS)
    assert near.read < any_worker.read
    assert entries.read < whole.read
    assert entries.computing < 4 * near.computing


def test_what_was_measured_is_read_from_the_results() -> None:
    composing = measured_composing()
    assert 0.1 / GB < composing.processor < 100 / GB
    assert 0.1 * GB < composing.stream < 100 * GB
    assert 0.01 < composing.patch < 1
