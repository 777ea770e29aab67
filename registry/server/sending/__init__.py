"""Files and blobs on their way to a reader: from the disk, or composed while they are sent."""
