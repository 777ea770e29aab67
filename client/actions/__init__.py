"""Push, pull, verify and apply: several calls, and files on this machine."""
