"""Abuse reports and server statistics, for admins."""
