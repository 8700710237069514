"""Model shapes: the presets, their GGUF keys and their tensors in file order. Knows no quant types and no
bytes."""

import dataclasses
import math


@dataclasses.dataclass
class Model:
    """What a GGUF file says of a model. Counts as llama.cpp names them; dimensions of tensors are (cols,
    rows[, experts])."""

    name: str
    arch: str  # general.architecture: llama | qwen2 | gemma3
    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx: int
    rope_base: float
    eps: float
    vocab: str  # llama-bpe | qwen2 | spm | gemma: which synthetic vocabulary stands in
    tied: bool = False
    n_experts: int = 0
    n_experts_used: int = 0
    rope_scaling: str = "none"  # none | linear | yarn | llama3
    rope_factor: float = 1.0
    n_ctx_orig: int = 0
    window: int = 0
    window_pattern: int = 6  # every n-th layer attends to everything
    rope_base_local: float = 10000.0


@dataclasses.dataclass
class Tensor:
    """One entry of the tensor directory; `mean` and `std` are of its weights."""

    name: str
    dims: tuple
    std: float
    mean: float = 0.0

    @property
    def n_elements(self):
        return math.prod(self.dims)


def _llama(name, layers, embd, heads, ff, vocab, ctx, base, vocab_kind, **more):
    return Model(name, "llama", layers, embd, heads, 8, 128, ff, vocab, ctx, base, 1e-5, vocab_kind, **more)


def _qwen(name, layers, embd, heads, ff):
    return Model(name, "qwen2", layers, embd, heads, 8, 128, ff, 152064, 32768, 1e6, 1e-6, "qwen2")


_LLAMA31 = {"rope_scaling": "llama3", "rope_factor": 8.0, "n_ctx_orig": 8192}
_EXPERTS = {"n_experts": 8, "n_experts_used": 2}

PRESETS = {
    model.name: model
    for model in (
        _llama("llama-3.1-8b", 32, 4096, 32, 14336, 128256, 131072, 5e5, "llama-bpe", **_LLAMA31),
        _llama("llama-3.1-70b", 80, 8192, 64, 28672, 128256, 131072, 5e5, "llama-bpe", **_LLAMA31),
        _llama("llama-2-70b", 80, 8192, 64, 28672, 32000, 4096, 1e4, "spm"),
        _llama("yi-34b", 60, 7168, 56, 20480, 64000, 4096, 5e6, "spm"),
        _llama("codellama-34b", 48, 8192, 64, 22016, 32000, 16384, 1e6, "spm"),
        _qwen("qwen2.5-32b", 64, 5120, 40, 27648),
        _qwen("qwen2.5-72b", 80, 8192, 64, 29568),
        _llama("mixtral-8x7b", 32, 4096, 32, 14336, 32000, 32768, 1e6, "spm", **_EXPERTS),
        _llama("mixtral-8x22b", 56, 6144, 48, 16384, 32000, 65536, 1e6, "spm", **_EXPERTS),
    )
}

# What --arch starts from: small, and odd where a real model is round (9 heads over 3, no power of two).
TINY = {
    "llama": Model("tiny-llama", "llama", 3, 288, 9, 3, 32, 544, 320, 512, 1e4, 1e-5, "llama-bpe"),
    "mixtral": Model(
        "tiny-mixtral",
        "llama",
        3,
        160,
        5,
        1,
        32,
        96,
        330,
        512,
        1e6,
        1e-5,
        "spm",
        n_experts=4,
        n_experts_used=2,
    ),
    "qwen2": Model("tiny-qwen2", "qwen2", 3, 192, 6, 2, 32, 352, 341, 512, 1e6, 1e-6, "qwen2"),
    "gemma3": Model(
        "tiny-gemma3",
        "gemma3",
        4,
        160,
        3,
        1,
        64,
        320,
        333,
        512,
        1e6,
        1e-6,
        "gemma",
        tied=True,
        window=16,
        window_pattern=2,
    ),
}


def check(model):
    """Raises ValueError where no file of this shape could be computed with."""
    if model.n_heads % model.n_kv_heads:
        raise ValueError(f"{model.n_heads} heads cannot share {model.n_kv_heads} key/value heads evenly")
    if model.head_dim % 2:
        raise ValueError(f"head dimension {model.head_dim} is odd: rotary embedding works on pairs")
    if model.n_experts and not 0 < model.n_experts_used <= model.n_experts:
        raise ValueError(f"{model.n_experts_used} of {model.n_experts} experts cannot be used")
    if min(model.n_layers, model.n_embd, model.n_kv_heads, model.n_ff, model.n_vocab) < 1:
        raise ValueError("every count must be at least 1")


def keys(model):
    """The general.* and architecture keys as (name, type, value) in file order; type as container.KV knows
    them."""
    a = model.arch
    out = [
        ("general.architecture", "str", a),
        ("general.type", "str", "model"),
        ("general.name", "str", f"{model.name} (synthetic, random weights)"),
        (f"{a}.block_count", "u32", model.n_layers),
        (f"{a}.context_length", "u32", model.n_ctx),
        (f"{a}.embedding_length", "u32", model.n_embd),
        (f"{a}.feed_forward_length", "u32", model.n_ff),
        (f"{a}.attention.head_count", "u32", model.n_heads),
        (f"{a}.attention.head_count_kv", "u32", model.n_kv_heads),
        (f"{a}.attention.key_length", "u32", model.head_dim),
        (f"{a}.attention.value_length", "u32", model.head_dim),
        (f"{a}.attention.layer_norm_rms_epsilon", "f32", model.eps),
        (f"{a}.rope.dimension_count", "u32", model.head_dim),
        (f"{a}.rope.freq_base", "f32", model.rope_base),
        (f"{a}.vocab_size", "u32", model.n_vocab),
    ]
    if model.n_experts:
        out += [
            (f"{a}.expert_count", "u32", model.n_experts),
            (f"{a}.expert_used_count", "u32", model.n_experts_used),
        ]
    if model.rope_scaling in ("linear", "yarn"):
        out += [
            (f"{a}.rope.scaling.type", "str", model.rope_scaling),
            (f"{a}.rope.scaling.factor", "f32", model.rope_factor),
        ]
        if model.rope_scaling == "yarn":
            out.append((f"{a}.rope.scaling.original_context_length", "u32", model.n_ctx_orig))
    if model.window:
        out += [
            (f"{a}.attention.sliding_window", "u32", model.window),
            (f"{a}.attention.sliding_window_pattern", "u32", model.window_pattern),
            (f"{a}.rope.freq_base_swa", "f32", model.rope_base_local),
        ]
    return out


def _layer(model, i):
    """Tensors of layer i. Outputs of q, k, v, gate and up have unit variance for normed inputs; what goes
    back to the residual shrinks with the depth, so that the stream grows by the same factor however many
    layers there are."""
    n_q, n_kv = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    into, back = 1 / math.sqrt(model.n_embd), 2 / math.sqrt(2 * model.n_layers)
    out = [
        Tensor("attn_norm.weight", (model.n_embd,), 0.1, 1.0),
        Tensor("attn_q.weight", (model.n_embd, n_q), into),
        Tensor("attn_k.weight", (model.n_embd, n_kv), into),
        Tensor("attn_v.weight", (model.n_embd, n_kv), into),
        Tensor("attn_output.weight", (n_q, model.n_embd), back / math.sqrt(n_q)),
        Tensor("ffn_norm.weight", (model.n_embd,), 0.1, 1.0),
    ]
    if model.arch == "qwen2":
        out += [Tensor(f"attn_{x}.bias", (n,), 0.3) for x, n in (("q", n_q), ("k", n_kv), ("v", n_kv))]
    if model.arch == "gemma3":
        out += [Tensor(f"attn_{x}_norm.weight", (model.head_dim,), 0.1, 1.0) for x in "qk"]
        # Large, so that the layers outweigh the scaled embedding: else a tied head would repeat its input.
        out += [Tensor(f"post_{x}_norm.weight", (model.n_embd,), 0.6, 6.0) for x in ("attention", "ffw")]
    experts, suffix = ((model.n_experts,), "_exps") if model.n_experts else ((), "")
    if model.n_experts:
        out.append(Tensor("ffn_gate_inp.weight", (model.n_embd, model.n_experts), into))
    out += [
        Tensor(f"ffn_gate{suffix}.weight", (model.n_embd, model.n_ff) + experts, into),
        Tensor(f"ffn_up{suffix}.weight", (model.n_embd, model.n_ff) + experts, into),
        Tensor(
            f"ffn_down{suffix}.weight", (model.n_ff, model.n_embd) + experts, back / math.sqrt(model.n_ff)
        ),
    ]
    return [dataclasses.replace(t, name=f"blk.{i}.{t.name}") for t in out]


def tensors(model):
    """All tensors in file order."""
    head_std = 2 / math.sqrt(model.n_embd)  # logits of variance 4: a natural spread, no token certain
    out = [Tensor("token_embd.weight", (model.n_embd, model.n_vocab), head_std if model.tied else 1.0)]
    if model.rope_scaling == "llama3":
        out.append(Tensor("rope_freqs.weight", (model.head_dim // 2,), 0.0))
    for i in range(model.n_layers):
        out += _layer(model, i)
    out.append(Tensor("output_norm.weight", (model.n_embd,), 0.1, 1.0))
    if not model.tied:
        out.append(Tensor("output.weight", (model.n_embd, model.n_vocab), head_std))
    return out


def llama3_rope_factors(model, low=1.0, high=4.0):
    """The divisors of the rotary frequencies that Llama 3.1 uses, (head_dim / 2) of them."""
    factors = []
    for i in range(model.head_dim // 2):
        wavelength = 2 * math.pi * model.rope_base ** (2 * i / model.head_dim)
        turns = model.n_ctx_orig / wavelength
        if turns > high:
            factors.append(1.0)
        elif turns < low:
            factors.append(model.rope_factor)
        else:
            smooth = (turns - low) / (high - low)
            factors.append(1 / ((1 - smooth) / model.rope_factor + smooth))
    return factors
