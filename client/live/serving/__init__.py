"""Serving: changes between revisions, as engines that serve a model take them."""
