"""Dtypes of torch by safetensors dtype code, for tensors on a GPU."""

import torch

TORCH_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
"""The dtypes that have a task direction."""
