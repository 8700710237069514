"""Writes kv_blocks.bin: rows of floats, and what the `gguf` package (an independent quantiser) makes of them.

    python tests/ops/cpu/generate_kv_blocks.py tests/ops/cpu/kv_blocks.bin

Needs gguf 0.19 and numpy. uint32 rows, uint32 columns, the float32 rows; then for Q8_0 and Q4_0 the blocks' bytes and
the float32 values that they stand for.
"""

import struct
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

ROWS, COLUMNS = 64, 96


def rows(rng):
    """Blocks of every size from the smallest that have a scale to the largest, and those where rounding is
    delicate."""
    values = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    values[8:56] *= (10.0 ** rng.uniform(-7, 5, (48, 1))).astype(np.float32)
    blocks = values.reshape(-1, 32)
    blocks[0] = 0.0
    blocks[1] = -0.0
    blocks[2, :] = np.arange(32) * 0.5 - 8.0  # ties in both formats
    blocks[3, :] = np.arange(32) * -0.5 + 8.0
    blocks[4, :] = np.arange(32) - 0.5
    blocks[4, 31] = 127.0
    blocks[5, :] = -np.arange(32) + 0.5
    blocks[5, 31] = -127.0
    blocks[6, 5], blocks[6, 21] = 4.0, -4.0  # the first of two extremes counts
    blocks[7, 5], blocks[7, 21] = -4.0, 4.0
    blocks[8, :] = 0.0
    blocks[8, 31] = 1e-30  # its half scale is 0
    blocks[9, :] = 65504.0 * 8.0  # the largest that Q4_0 has
    blocks[10, :] = 3.0
    blocks[11, :] = -3.0
    return values


def main():
    values = rows(np.random.default_rng(7))
    with open(sys.argv[1], "wb") as out:
        out.write(struct.pack("<II", *values.shape))
        out.write(values.tobytes())
        for dtype in (T.Q8_0, T.Q4_0):
            data = quantize(values, dtype)
            out.write(data.tobytes())
            out.write(dequantize(data, dtype).astype(np.float32).tobytes())


main()
