"""Comparing: conflicts between patches, and blame for weights, tensors and models."""
