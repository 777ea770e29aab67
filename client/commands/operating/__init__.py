"""Commands for admins, webhooks, and the audit log."""
