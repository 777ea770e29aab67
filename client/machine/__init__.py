"""Files on this machine: model folders, locks, logins, sources, signatures."""
