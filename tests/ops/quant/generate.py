"""Writes golden.bin: random blocks of every format and what the `gguf` package (an independent decoder) makes of them.

    python tests/ops/quant/generate.py tests/ops/quant/golden.bin

Needs gguf 0.19 and numpy. Per format: uint32 type id, uint32 elements, uint32 bytes, the bytes, the float32 values.
The codes and sub-scales are random bytes; the half-precision scales run through normal, negative, subnormal, zero,
negative zero and the largest values.
"""

import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

FORMATS = [T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K,
           T.IQ4_NL, T.IQ4_XS]
# Byte offsets of the half-precision fields in a block.
HALVES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108],
          T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0]}
SCALES = np.array([0.0123, -0.0077, 3.1e-6, -5.9e-8, 0.0, -0.0, 1.7, 65504.0], dtype=np.float16)


def floats(rng, dtype, n):
    values = (rng.standard_normal(n) * 10.0 ** rng.integers(-9, 4, n)).astype(np.float32)
    values[:4] = [0.0, -0.0, 1e-40, -65504.0]
    if dtype == T.BF16:
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return values.astype({T.F32: np.float32, T.F16: np.float16}[dtype]).view(np.uint8)


def blocks(rng, dtype):
    elements, size = GGML_QUANT_SIZES[dtype]
    n = 8 if elements == 256 else 24
    data = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for k, offset in enumerate(HALVES[dtype]):
        for i in range(n):
            data[i, offset:offset + 2] = SCALES[(i + 3 * k) % len(SCALES):][:1].view(np.uint8)
    return data.reshape(-1)


def main():
    rng = np.random.default_rng(20)
    with open(sys.argv[1], "wb") as out:
        for dtype in FORMATS:
            data = blocks(rng, dtype) if dtype in HALVES else floats(rng, dtype, 64)
            values = dequantize(data, dtype).astype(np.float32).reshape(-1)
            out.write(struct.pack("<III", int(dtype), values.size, data.size))
            out.write(data.tobytes())
            out.write(values.tobytes())


main()
