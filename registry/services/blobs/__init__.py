"""Blobs in the database: uploads, quotas, garbage collection, copies in a bucket."""
