"""Logits of a GGUF model by numpy alone: the dequantised weights, no cache, no quantised activations, float32
products.

What bench/quality/kl.py and the tests hold tandem against; written from the papers and the GGUF conventions,
and held against Hugging Face's own models by tests/scripts/test_reference.py. Families: llama (with experts),
qwen2, gemma3. Slow on purpose: a layer's weights are dequantised, used for all tokens and dropped."""

import math

import gguf
import numpy as np


class Reference:
    """A model opened for computing; `logits` is all there is to call."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self._fields = reader.fields
        self._tensors = {t.name: t for t in reader.tensors}
        self._arch = self._key("general.architecture", prefix=False)
        if self._arch not in ("llama", "qwen2", "gemma3"):
            raise ValueError(f"{path}: no reference for architecture {self._arch}")
        self._n_layers = self._key("block_count")
        self._n_heads = self._key("attention.head_count")
        self._n_kv = self._key("attention.head_count_kv", self._n_heads)
        self._n_embd = self._key("embedding_length")
        self._head_dim = self._key("attention.key_length", self._n_embd // self._n_heads)
        self._eps = self._key("attention.layer_norm_rms_epsilon")
        self._window = self._key("attention.sliding_window", 0) if self._arch == "gemma3" else 0
        self._pattern = self._key("attention.sliding_window_pattern", 6)
        # Gemma's 27B alone scales by the width a head would have if the heads shared the embedding out.
        is_gemma_27b = self._arch == "gemma3" and self._n_layers == 62
        self._scale = 1 / math.sqrt(self._n_embd // self._n_heads if is_gemma_27b else self._head_dim)

    def logits(self, tokens):
        """Logits of every position of one sequence: (n_tokens, n_vocab) float32."""
        tokens = np.asarray(tokens)
        embedding = self._tensors["token_embd.weight"]
        if tokens.ndim != 1 or not len(tokens) or tokens.min() < 0 or tokens.max() >= embedding.shape[1]:
            raise ValueError(f"tokens must be ids of the vocabulary's {embedding.shape[1]}")
        rows = gguf.quants.dequantize(embedding.data[tokens], embedding.tensor_type).astype(np.float32)
        x = rows * np.float32(math.sqrt(self._n_embd)) if self._arch == "gemma3" else rows
        for i in range(self._n_layers):
            x = self._layer(i, x)
        x = self._norm(x, "output_norm.weight")
        return self._head(x)

    def _key(self, name, default=None, prefix=True):
        field = self._fields.get(f"{self._arch}.{name}" if prefix else name)
        if field is None and default is None:
            raise ValueError(f"no key {name}")
        return default if field is None else field.contents()

    def _weight(self, name):
        t = self._tensors[name]
        return gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32, copy=False)

    def _norm(self, x, name):
        mean_square = np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True)
        return (x / np.sqrt(mean_square + self._eps)).astype(np.float32) * self._weight(name)

    def _linear(self, x, name):
        y = x @ self._weight(f"{name}.weight").T
        return y + self._weight(f"{name}.bias") if f"{name}.bias" in self._tensors else y

    def _head(self, x):
        name = "output.weight" if "output.weight" in self._tensors else "token_embd.weight"
        t = self._tensors[name]
        out = np.empty((len(x), t.shape[1]), np.float32)
        for begin in range(0, t.shape[1], 16384):
            rows = gguf.quants.dequantize(t.data[begin : begin + 16384], t.tensor_type)
            out[:, begin : begin + 16384] = x @ rows.astype(np.float32, copy=False).T
        return out

    def _layer(self, i, x):
        p = f"blk.{i}."
        h = self._attention(i, self._norm(x, p + "attn_norm.weight"))
        x = x + (self._norm(h, p + "post_attention_norm.weight") if self._arch == "gemma3" else h)
        h = self._norm(x, p + "ffn_norm.weight")
        h = self._experts(p, h) if p + "ffn_gate_inp.weight" in self._tensors else self._ffn(p, h)
        return x + (self._norm(h, p + "post_ffw_norm.weight") if self._arch == "gemma3" else h)

    def _is_local(self, i):
        return bool(self._window) and (i + 1) % self._pattern != 0

    def _attention(self, i, x):
        p, n, d = f"blk.{i}.", len(x), self._head_dim
        q = self._linear(x, p + "attn_q").reshape(n, self._n_heads, d)
        k = self._linear(x, p + "attn_k").reshape(n, self._n_kv, d)
        v = self._linear(x, p + "attn_v").reshape(n, self._n_kv, -1)
        if self._arch == "gemma3":
            q, k = self._norm(q, p + "attn_q_norm.weight"), self._norm(k, p + "attn_k_norm.weight")
        q, k = self._rotate(q, i), self._rotate(k, i)
        distance = np.arange(n)[:, None] - np.arange(n)[None, :]
        hidden = (distance < 0) | ((distance >= self._window) if self._is_local(i) else False)
        out = np.empty((n, self._n_heads, v.shape[2]), np.float32)
        for head in range(self._n_heads):
            kv = head * self._n_kv // self._n_heads
            scores = (q[:, head] @ k[:, kv].T).astype(np.float64) * self._scale
            scores[hidden] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            out[:, head] = weights.astype(np.float32) @ v[:, kv]
        return self._linear(out.reshape(n, -1), p + "attn_output")

    def _angles(self, i):
        """(frequencies of layer i in radians a position: (head_dim / 2), factor of sine and cosine)"""
        half = self._head_dim // 2
        base = self._key("rope.freq_base", 10000.0)
        if self._is_local(i):
            base = self._key("rope.freq_base_swa", 10000.0)
            return base ** (-np.arange(half) / half), 1.0
        frequencies = base ** (-np.arange(half) / half)
        if "rope_freqs.weight" in self._tensors:
            frequencies = frequencies / self._weight("rope_freqs.weight")
        kind, factor = self._key("rope.scaling.type", "none"), self._key("rope.scaling.factor", 1.0)
        if kind == "linear":
            return frequencies / factor, 1.0
        if kind == "yarn":
            return self._yarn(frequencies, base, factor)
        return frequencies, 1.0

    def _yarn(self, frequencies, base, factor):
        """YaRN: pairs that turn often keep their frequency, those that turn less than once are stretched."""
        n_original = self._key("rope.scaling.original_context_length")

        def pair_that_turns(turns):
            return self._head_dim * math.log(n_original / (turns * 2 * math.pi)) / (2 * math.log(base))

        low = max(math.floor(pair_that_turns(self._key("rope.scaling.yarn_beta_fast", 32.0))), 0)
        high = min(
            math.ceil(pair_that_turns(self._key("rope.scaling.yarn_beta_slow", 1.0))), self._head_dim - 1
        )
        stretched = np.clip((np.arange(len(frequencies)) - low) / max(high - low, 0.001), 0, 1)
        return frequencies / factor * stretched + frequencies * (1 - stretched), 1 + 0.1 * math.log(factor)

    def _rotate(self, x, i):
        """Rotary embedding of (n_tokens, heads, head_dim): neighbours are a pair for llama, halves for the
        others."""
        frequencies, magnitude = self._angles(i)
        angle = np.arange(len(x))[:, None] * frequencies[None, :]
        cos = (np.cos(angle) * magnitude)[:, None, :]
        sin = (np.sin(angle) * magnitude)[:, None, :]
        half = self._head_dim // 2
        first, second = (
            (np.s_[..., 0::2], np.s_[..., 1::2])
            if self._arch == "llama"
            else (np.s_[..., :half], np.s_[..., half:])
        )
        out = np.empty_like(x)
        out[first] = x[first] * cos - x[second] * sin
        out[second] = x[first] * sin + x[second] * cos
        return out

    def _activation(self, x):
        x = x.astype(np.float64)
        if self._arch == "gemma3":
            return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))).astype(
                np.float32
            )
        return (x / (1 + np.exp(-np.clip(x, -700, 700)))).astype(np.float32)

    def _ffn(self, p, x):
        gated = self._activation(self._linear(x, p + "ffn_gate")) * self._linear(x, p + "ffn_up")
        return self._linear(gated, p + "ffn_down")

    def _experts(self, p, x):
        n_used = self._key("expert_used_count")
        router = (x @ self._weight(p + "ffn_gate_inp.weight").T).astype(np.float64)
        chosen = np.argsort(-router, axis=1, kind="stable")[:, :n_used]
        weight = np.exp(np.take_along_axis(router, chosen, 1) - router.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        gate, up, down = (self._weight(f"{p}ffn_{part}_exps.weight") for part in ("gate", "up", "down"))
        out = np.zeros_like(x)
        for expert in range(router.shape[1]):
            rows, slot = np.nonzero(chosen == expert)
            if len(rows):
                h = self._activation(x[rows] @ gate[expert].T) * (x[rows] @ up[expert].T)
                out[rows] += (h @ down[expert].T) * weight[rows, slot, None].astype(np.float32)
        return out
