"""Commands for releases, channels, and publishing on the Hub."""
