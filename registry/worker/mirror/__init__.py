"""The mirror: follows another registry, and has here what is there."""
