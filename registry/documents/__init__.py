"""Texts that a registry writes and reads: cards, changelogs, manifests, versions, licences. Without a database."""
