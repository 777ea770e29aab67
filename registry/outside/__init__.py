"""Requests that leave the server: to a Hub, and webhooks."""
