"""The endpoints of a registry, one mixin of `Client` for each noun."""
