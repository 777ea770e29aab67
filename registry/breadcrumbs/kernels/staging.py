"""Staging a chunk of one tensor on the CPU; cpu/staging.py describes the kernels.

They check no bounds but those of files: see compose.py.
"""

from registry.breadcrumbs.kernels.machine_code import Kernel

read_parts = Kernel("staging", "read_parts")
read_masks = Kernel("staging", "read_masks")
lay_out = Kernel("staging", "lay_out")
count_indices = Kernel("staging", "count_indices")
block_starts = Kernel("staging", "block_starts")
