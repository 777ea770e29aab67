"""The commands, in the order of the report; each is a module with `add_options` and `run`."""

from benchmarks.gpu import files, kernels, live
from benchmarks.science import compose, conflicts, diff, mergekit, ranges, scaling, size
from benchmarks.server import capacity, database, latency, pages, requests, serving

COMMANDS = {
    "compose": compose,
    "ranges": ranges,
    "diff": diff,
    "conflicts": conflicts,
    "mergekit": mergekit,
    "scaling": scaling,
    "kernels": kernels,
    "live": live,
    "gpu": files,
    "size": size,
    "pages": pages,
    "database": database,
    "requests": requests,
    "latency": latency,
    "serving": serving,
    "capacity": capacity,
}
