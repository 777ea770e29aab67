"""What people do: plain functions over (session, store); no HTTP, no commit."""
