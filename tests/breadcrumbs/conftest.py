"""Without a GPU, Triton interprets its kernels on the CPU; it reads the variable when it is first imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
