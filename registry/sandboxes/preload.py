"""Imports of the server that sandboxes are forked from: the science, with its compiler warmed up once for all."""

import registry.sandboxes.pushed_tasks  # noqa: F401
from registry.breadcrumbs.kernels.check import warm_up

warm_up()
