"""Model folders and files, without torch: hashing, durable writes, copying, progress, what may be in a folder."""
