"""Sizes in bytes as people read them, on the command line and on pages alike."""

UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"))


def size(count: float) -> str:
    """Return a number of bytes for people, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.4g} TB"


def exact(count: int) -> str:
    """Return a number of bytes as a setting has it: in the largest binary unit that it is a multiple of, or plain."""
    unit = next(((size, word) for size, word in UNITS if count and count % size == 0), None)
    return f"{count // unit[0]}{unit[1]}" if unit else str(count)
