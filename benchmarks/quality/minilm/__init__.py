"""A real base: MiniLM (22.7 M weights) fine-tuned on texts out of packages, at three learning rates."""
