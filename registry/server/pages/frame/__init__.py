"""What every page shares: its route, sign-in cookie, templates, forms, Markdown."""
