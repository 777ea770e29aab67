"""Routes for registries that follow this one."""
