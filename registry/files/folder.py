"""What a model folder is made of, for those who take one from a Hub; weights in a pickle format stay where they are."""

PATTERNS = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.md",
    "*.model",
    "*.jinja",
    "*.tiktoken",
    "*.py",
    "LICENSE*",
    "NOTICE*",
)
"""Globs on the names of files."""
