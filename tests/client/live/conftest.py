"""Fixtures of live models: the lanes that stand in for a GPU's."""

from tests.support.host_lanes import lanes, lanes_libraries

__all__ = ["lanes", "lanes_libraries"]
