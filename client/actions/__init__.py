"""Actions: push, pull, verify, compose, diff and apply - several calls each, and files on this machine."""
