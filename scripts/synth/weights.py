"""Tensor contents: fresh random blocks where every row has to differ, else runs out of a small pool of
blocks, so that a file is written as fast as the disk takes it."""

import numpy as np

from synth import blocks, mix, shapes

CHUNK_BYTES = 8 << 20  # of one write, and of a pool


class Weights:
    """Yields the bytes of tensors in file order; the same seed gives the same file.

    exact: no pool, and formats that the gguf package can write are quantised from normally distributed
    weights, as a real file's are; slower, for small models."""

    def __init__(self, model, types, seed, exact):
        self._model, self._types, self._exact = model, types, exact
        self._rng = np.random.Generator(np.random.SFC64(seed))
        self._pools = {}

    def chunks(self, tensor):
        """The tensor's bytes, in pieces."""
        name = self._types[tensor.name]
        if tensor.name == "rope_freqs.weight":
            yield np.float32(shapes.llama3_rope_factors(self._model)).view(np.uint8)
        elif len(tensor.dims) == 1:
            values = self._rng.standard_normal(tensor.dims[0], dtype=np.float32) * np.float32(tensor.std)
            yield (values + np.float32(tensor.mean)).view(np.uint8)
        else:
            n_blocks = tensor.n_elements // mix.block_elements(name)
            is_head = tensor.name in (
                "output.weight",
                "token_embd.weight",
            )  # equal rows would make equal logits
            source = self._fresh if is_head or self._exact else self._pooled
            yield from source(name, n_blocks, tensor.std)

    def _fresh(self, name, n_blocks, std):
        step = CHUNK_BYTES // mix.block_bytes(name)
        for begin in range(0, n_blocks, step):
            yield self._new_blocks(name, min(step, n_blocks - begin), std)

    def _new_blocks(self, name, n, std):
        if self._exact:
            values = self._rng.standard_normal(n * mix.block_elements(name), dtype=np.float32) * np.float32(
                std
            )
            try:
                return blocks.from_floats(values, name)
            except NotImplementedError:
                pass
        return blocks.random_blocks(name, n, std, self._rng)

    def _pooled(self, name, n_blocks, std):
        size = mix.block_bytes(name)
        if (name, std) not in self._pools:
            self._pools[name, std] = self._new_blocks(name, CHUNK_BYTES // size, std)
        pool = self._pools[name, std]
        n_pool = len(pool) // size
        while n_blocks:
            begin = int(self._rng.integers(0, n_pool))
            n = min(n_blocks, n_pool - begin)
            yield pool[begin * size : (begin + n) * size]
            n_blocks -= n
