"""Signatures of releases, by keys that people hold."""
