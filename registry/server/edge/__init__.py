"""What every request passes: serving, middleware, limits, admission, downloads."""
