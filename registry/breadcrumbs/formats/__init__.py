"""The file formats: safetensors headers, checkpoints, patch files, recipes."""
