"""Names and digests: their patterns, as regular expressions without anchors."""

NAME = r"[a-z0-9](?:[a-z0-9._-]{0,94}[a-z0-9])?"
"""The name of a user, an organisation, or a model within its namespace."""

MODEL = rf"{NAME}/{NAME}"
"""The full name of a model."""

HEX256 = r"[0-9a-f]{64}"
"""A sha256 in hex."""

WEIGHTS_DIGEST = rf"sha256:{HEX256}"
"""The digest of a model's weights."""

LINE = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*"
"""One line, without what controls a page or a terminal, or turns the direction of the text around it."""
