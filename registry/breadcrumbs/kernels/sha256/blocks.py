"""Blocks of SHA-256 (FIPS 180-4): where it starts, and the kernels that take blocks; cpu/sha256.py describes them."""

from registry.breadcrumbs.kernels.cpu.target import features
from registry.breadcrumbs.kernels.machine_code import Kernel

HAS_SHA = {"+sha", "+ssse3"} <= features()
"""Whether the processor that code is generated for has the instructions that the kernels need."""

absorb_one = Kernel("sha256", "absorb_one")
absorb_two = Kernel("sha256", "absorb_two")
