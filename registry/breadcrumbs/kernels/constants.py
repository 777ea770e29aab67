"""Constants that the kernels share with those who call them."""

# Composing

SPAN = 2048
"""Elements that a kernel keeps in the L1 cache at a time; a multiple of 64."""

PAD = 256
"""Bytes after the last element that a kernel may read or write."""

BF16, F16, F32, F64 = range(4)
CODES = {"BF16": BF16, "F16": F16, "F32": F32, "F64": F64}
"""The kernels' codes for the dtypes."""

SUM, TIES, MEAN = range(3)
METHODS = {"sum": SUM, "ties": TIES, "mean": MEAN}
"""The kernels' codes for the methods."""

# Staging

FILE, MASK, VALUES, CODE, WIDTH, INDEX_WIDTH, NNZ = range(7)
"""Columns of the table of sources, which has a row for each patch that touches a tensor: descriptor of the file; where
mask and values start in it; dtype and bytes of a value; bytes of an index, or 0 for a bitmask; number of values."""

# Conflicts

WORDS = SPAN // 64
"""Words of 64 bits that hold the mask of a span."""

L1, SQUARES = range(2)
"""What is summed over all values of a patch: |a|, a^2."""

OVERLAP, OPPOSED = range(2)
"""What is counted for a pair: weights that both touch, and how many of these with values of different sign."""

OVERLAP_MASS, OPPOSED_MASS, DOT, FIRST_SQUARES, SECOND_SQUARES = range(5)
"""What is summed over a pair's overlap: min(|a|, |b|), the same where the signs differ, ab, a^2, b^2."""

# Selection

LOW = 15
"""Low bits of a key, which are counted second; the 16 high bits above them are counted first."""

LOW_MASK = (1 << LOW) - 1
"""The low bits of a key."""

HIGH_BINS, LOW_BINS = 1 << (31 - LOW), 1 << LOW
"""How many high parts and low parts of a key there are."""

# SHA-256

BLOCK = 64
"""Bytes of a block."""


def root_bits(root: int) -> list[int]:
    """Return the first 32 bits of the fractions of the square (2) or cube (3) roots of the first 64 primes."""
    primes = [n for n in range(2, 312) if all(n % d for d in range(2, n))]
    found = []
    for prime in primes:
        low, high, scaled = 0, 1 << 40, prime << 32 * root
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if middle**root <= scaled else (low, middle)
        found.append(low & 0xFFFFFFFF)
    return found


START = tuple(root_bits(2)[:8])
"""The state before the first block."""
