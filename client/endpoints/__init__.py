"""The methods of `Client`, one for each endpoint, by what they are about."""
