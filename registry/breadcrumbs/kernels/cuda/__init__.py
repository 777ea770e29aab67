"""CUDA kernels: C++ that NVRTC compiles on first use, and the functions that launch it. Importing these needs torch."""
