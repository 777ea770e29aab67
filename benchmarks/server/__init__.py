"""What a server costs: requests, pages, and reads of a large registry."""
