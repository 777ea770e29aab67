"""Composing: from a base and patches to a model, by staging, engines and a writer."""
