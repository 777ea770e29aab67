"""What tests share: makers of small real things, registries, people, servers that stand in for others."""
