"""Routes of the API, one router a noun."""
