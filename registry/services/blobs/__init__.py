"""Blobs in the database: uploads, quotas, garbage collection, and copies in a bucket."""
