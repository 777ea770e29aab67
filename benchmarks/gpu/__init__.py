"""Composing on a GPU, measured: the kernels by themselves, and from files to files."""
