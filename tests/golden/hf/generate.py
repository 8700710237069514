"""Makes the golden logits beside this file: tiny models with random weights, computed by Hugging Face
transformers in float32 on the CPU, and the same weights as F32 GGUF files. Run once, the results are in the
tree:

    python3 -m venv /tmp/hf && /tmp/hf/bin/pip install torch==2.6.0 transformers==4.57.1 gguf==0.19.0
    /tmp/hf/bin/python tests/golden/hf/generate.py

For every model NAME: NAME.gguf, NAME.npy (float32 logits, (n_tokens, n_vocab)), and in tokens.json the ids.
Weights come from numpy with a fixed seed, so another version of torch makes the same files. The conversion's
rules are those of GGUF: llama's q and k rows reordered for rotary pairs that are neighbours, Gemma's norms
with their 1 added, experts stacked, llama3's frequency divisors as a tensor."""

import json
import math
import pathlib
import sys

import gguf
import numpy as np
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "scripts"))
from synth import vocab  # noqa: E402

N_TOKENS = 40
N_VOCAB = 272
LLAMA = {
    "vocab_size": N_VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-5,
}
GEMMA = {"vocab_size": N_VOCAB, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 1e4}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def heads(n_heads, n_kv_heads, head_dim):
    return {"num_attention_heads": n_heads, "num_key_value_heads": n_kv_heads, "head_dim": head_dim}


def layer_types(n_layers):
    return ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(n_layers)]


def llama(**more):
    return LlamaForCausalLM, LlamaConfig(
        **(LLAMA | {"rope_theta": 1e4, "max_position_embeddings": 512} | more)
    )


def gemma(n_layers, **more):
    return Gemma3ForCausalLM, Gemma3TextConfig(
        num_hidden_layers=n_layers,
        layer_types=layer_types(n_layers),
        tie_word_embeddings=True,
        **GEMMA,
        **more,
    )


# 62 layers are how GGUF readers know Gemma's 27B, whose queries are scaled by embedding / heads instead of
# head_dim.
MODELS = {
    "llama": llama(**heads(6, 2, 8)),
    "llama-9-heads-3-kv": llama(**heads(9, 3, 8), hidden_size=40, intermediate_size=72),
    "llama-tied-llama3": llama(
        **heads(3, 1, 16),
        tie_word_embeddings=True,
        rope_scaling=LLAMA3 | {"original_max_position_embeddings": 64},
    ),
    "llama-linear": llama(**heads(4, 4, 12), rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "llama-yarn": llama(
        **heads(3, 1, 16),
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    ),
    "mixtral": (
        MixtralForCausalLM,
        MixtralConfig(
            **(LLAMA | heads(4, 2, 12) | {"intermediate_size": 32, "rope_theta": 1e6}),
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=None,
        ),
    ),
    "qwen2": (
        Qwen2ForCausalLM,
        Qwen2Config(
            **(LLAMA | {"rms_norm_eps": 1e-6}), num_attention_heads=4, num_key_value_heads=2, rope_theta=1e6
        ),
    ),
    "qwen2-tied-7-heads": (
        Qwen2ForCausalLM,
        Qwen2Config(
            **(LLAMA | {"hidden_size": 56}),
            num_attention_heads=7,
            num_key_value_heads=1,
            rope_theta=1e4,
            tie_word_embeddings=True,
        ),
    ),
    "gemma3": gemma(
        7, hidden_size=32, intermediate_size=48, **heads(3, 1, 16), query_pre_attn_scalar=16, sliding_window=9
    ),
    "gemma3-as-27b": gemma(
        62,
        hidden_size=16,
        intermediate_size=8,
        **heads(2, 1, 4),
        query_pre_attn_scalar=8,
        sliding_window=12,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    ),
}


def fill(model, rng):
    """Weights that keep activations near 1, norms that differ from 1 and biases that differ from 0."""
    adds_one = "Gemma" in type(model).__name__
    back = min(1, 2 / math.sqrt(model.config.num_hidden_layers))  # a deep model must not amplify rounding
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            values = rng.standard_normal(p.shape)
            if name.endswith("norm.weight"):
                gain = back if "post_" in name and adds_one else 1
                values = (1 + 0.3 * values) * gain - adds_one
            elif name.endswith("bias"):
                values *= 0.5
            else:
                values /= math.sqrt(p.shape[-1])
            p.copy_(torch.from_numpy(values.astype(np.float32)))


def pair_neighbours(weight, n_heads):
    """Reorders each head's rows from (first halves, second halves) to pairs that are neighbours."""
    return weight.reshape(n_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "block_sparse_moe.gate": "ffn_gate_inp",
}
GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
EXPERT_NAMES = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}


def tensors(model, arch):
    """GGUF name → float32 array, in GGUF's order of dimensions as numpy sees it (rows first)."""
    config, out, experts = model.config, {}, {}
    names = GGUF_NAMES | (GEMMA_NAMES if arch == "gemma3" else {})
    for name, p in model.named_parameters():
        w = p.detach().numpy()
        if arch == "gemma3" and name.endswith("norm.weight"):
            w = w + np.float32(1)
        if name == "model.embed_tokens.weight":
            out["token_embd.weight"] = w
        elif name == "model.norm.weight":
            out["output_norm.weight"] = w
        elif name == "lm_head.weight":
            out["output.weight"] = w
        else:
            _, _, layer, rest = name.split(".", 3)
            part, kind = rest.rsplit(".", 1)
            if ".experts." in part:
                expert, matrix = part.split(".")[-2:]
                experts.setdefault(f"blk.{layer}.{EXPERT_NAMES[matrix]}.weight", {})[int(expert)] = w
                continue
            if arch == "llama" and part.endswith(("q_proj", "k_proj")):
                is_q = part.endswith("q_proj")
                w = pair_neighbours(w, config.num_attention_heads if is_q else config.num_key_value_heads)
            out[f"blk.{layer}.{names[part]}.{kind}"] = w
    out |= {name: np.stack([by_index[i] for i in range(len(by_index))]) for name, by_index in experts.items()}
    return out


def rope_scaling(config):
    return getattr(config, "rope_scaling", None) or {}


def llama3_divisors(config, head_dim):
    """What Llama 3.1 divides each pair's frequency by."""
    s = config.rope_scaling
    turns = s["original_max_position_embeddings"] * config.rope_theta ** (
        -np.arange(0, head_dim, 2) / head_dim
    )
    turns /= 2 * np.pi
    kept = np.clip((turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"]), 0, 1)
    return (1 / ((1 - kept) / s["factor"] + kept)).astype(np.float32)


def add_keys(writer, config, head_dim):
    writer.add_name("tiny golden model, random weights")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_file_type(int(gguf.LlamaFileType.ALL_F32))
    if getattr(config, "num_local_experts", 0):
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if isinstance(config, Gemma3TextConfig):
        writer.add_sliding_window(config.sliding_window)
    scaling = rope_scaling(config)
    if scaling.get("rope_type") in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


def add_vocabulary(writer, arch):
    add = {"str": writer.add_string, "u32": writer.add_uint32, "bool": writer.add_bool}
    for name, kind, value in vocab.small(
        {"gemma3": "gemma", "qwen2": "qwen2"}.get(arch, "llama-bpe"), N_VOCAB
    ):
        add.get(kind, writer.add_array)(name, value)


def convert(model, path):
    config = model.config
    arch = {"mixtral": "llama", "gemma3_text": "gemma3"}.get(config.model_type, config.model_type)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, arch)
    add_keys(writer, config, head_dim)
    add_vocabulary(writer, arch)
    for name, w in tensors(model, arch).items():
        writer.add_tensor(name, np.ascontiguousarray(w))
    if rope_scaling(config).get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(config, head_dim))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    tokens = {}
    for seed, (name, (kind, config)) in enumerate(MODELS.items()):
        rng = np.random.default_rng(seed)
        config._attn_implementation = "eager"
        model = kind(config).to(torch.float32).eval()
        fill(model, rng)
        tokens[name] = rng.integers(0, N_VOCAB, N_TOKENS).tolist()
        with torch.no_grad():
            logits = model(torch.tensor([tokens[name]])).logits[0].numpy()
        np.save(HERE / f"{name}.npy", logits)
        convert(model, HERE / f"{name}.gguf")
        print(
            f"{name}: logits of deviation {logits.std():.2f}, {(HERE / f'{name}.gguf').stat().st_size} bytes"
        )
    lines = ",\n".join(f'"{name}": {json.dumps(ids)}' for name, ids in tokens.items())
    (HERE / "tokens.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
