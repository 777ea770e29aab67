"""Models as repositories of the Hugging Face Hub: refs, lists and downloads."""
