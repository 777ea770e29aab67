"""The edge of the server, which every request passes: limits, admission, bodies, downloads, serving."""
