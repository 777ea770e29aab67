"""Adding the change of an adapter to a weight, on the CPU; cpu/adapters.py describes the kernels."""

from registry.breadcrumbs.kernels.machine_code import Kernel

add_product = Kernel("adapters", "add_product")
add_hadamard = Kernel("adapters", "add_hadamard")
add_kronecker = Kernel("adapters", "add_kronecker")
