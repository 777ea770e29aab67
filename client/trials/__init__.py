"""Bisect, leave-one-out and blame: models composed here to be scored."""
