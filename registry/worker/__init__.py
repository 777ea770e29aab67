"""Worker and courier: claiming jobs, running them in sandboxes, delivering webhooks."""
