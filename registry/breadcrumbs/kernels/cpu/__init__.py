"""The sources of the CPU kernels, which numba compiles; kernels/machine_code.py calls what it made of them."""
