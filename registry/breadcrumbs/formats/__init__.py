"""File formats: safetensors headers, checkpoints and their digests, patch files, recipes."""
