"""Files, on the standard library alone: model folders, hashing, durable writes, copying, progress, threads."""
