"""Measuring patches, their bases, and how far a model moved, on the CPU; cpu/check.py describes the kernels."""

from registry.breadcrumbs.kernels.machine_code import Kernel

count_bits = Kernel("check", "count_bits")
measure_values = Kernel("check", "measure_values")
measure_on_base = Kernel("check", "measure_on_base")
measure_change = Kernel("check", "measure_change")
