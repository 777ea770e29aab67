"""Commands for accounts, tokens, keys, organisations and members."""
