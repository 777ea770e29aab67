"""Kernels: every compiled inner loop, for CPUs (numba) and GPUs (Triton), and the devices that run them."""
