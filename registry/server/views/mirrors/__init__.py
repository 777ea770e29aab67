"""Views for registries that follow this one."""
