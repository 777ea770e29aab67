"""Fixtures for tasks: the CUDA kernels on lanes that the CPU stands in for."""

from tests.support.host_lanes import lanes, lanes_libraries

__all__ = ["lanes", "lanes_libraries"]
