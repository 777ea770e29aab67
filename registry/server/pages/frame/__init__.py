"""What all pages share: their route, sign-in cookie, templates, forms, Markdown."""
