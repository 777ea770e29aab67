"""Blobs on disk, in a bucket, and in a bounded cache."""
