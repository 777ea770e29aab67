"""From a base and patches to a model: staging, engines, writing."""
