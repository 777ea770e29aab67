"""Which certificates the registry trusts when it calls somebody."""

import ssl
from functools import cache

import httpx2


@cache
def public_authorities() -> ssl.SSLContext:
    """Return the usual authorities, whatever the environment says; read once, since that takes tens of milliseconds."""
    return httpx2.create_ssl_context(trust_env=False)
