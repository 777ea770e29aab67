"""SHA-256 of two streams side by side, by the instructions that x86 processors have for it."""
