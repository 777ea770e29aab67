"""Worker, courier and mailer: claim jobs and run them in sandboxes; deliver webhooks; send mails."""
