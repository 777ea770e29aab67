"""Publishing to the Hugging Face Hub, and the `hf` command."""
