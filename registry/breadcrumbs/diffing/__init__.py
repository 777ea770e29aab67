"""From two checkpoints to a patch: pairing, mask, changes, adapters."""
