"""A lived-in registry as rows: people, models, patches, releases and an audit log; no bytes of patches or models."""
