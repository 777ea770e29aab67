"""Worker and courier: claim jobs and run them in sandboxes; deliver webhooks."""
