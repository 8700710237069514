"""Which type each tensor gets: the rules by which llama-quantize mixes types (without an importance matrix),
and plain single-type and mixed files for tests. Checked against `llama-quantize --dry-run` for every preset
and mix."""

import re

import gguf

# The mixes by llama-quantize's name: the type that most tensors get.
MIXES = {
    "F32": "F32",
    "F16": "F16",
    "BF16": "BF16",
    "Q4_0": "Q4_0",
    "Q4_1": "Q4_1",
    "Q5_0": "Q5_0",
    "Q5_1": "Q5_1",
    "Q8_0": "Q8_0",
    "Q2_K": "Q2_K",
    "Q3_K_S": "Q3_K",
    "Q3_K_M": "Q3_K",
    "Q3_K_L": "Q3_K",
    "Q4_K_S": "Q4_K",
    "Q4_K_M": "Q4_K",
    "Q5_K_S": "Q5_K",
    "Q5_K_M": "Q5_K",
    "Q6_K": "Q6_K",
    "IQ4_NL": "IQ4_NL",
    "IQ4_XS": "IQ4_XS",
}
TYPES = (
    "F32",
    "F16",
    "BF16",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
)
# Where rows are no multiple of 256.
_FALLBACK = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
}
_FLOATS = ("F32", "F16", "BF16")


def block_elements(type_name):
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]][0]


def block_bytes(type_name):
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]][1]


def n_bytes(tensor, type_name):
    return tensor.n_elements // block_elements(type_name) * block_bytes(type_name)


def file_type(wanted):
    """The value of general.file_type: the mix, or for a single type the mix that it dominates."""
    names = {
        "F32": "ALL_F32",
        "Q3_K": "MOSTLY_Q3_K_M",
        "Q4_K": "MOSTLY_Q4_K_M",
        "Q5_K": "MOSTLY_Q5_K_M",
        "mixed": "MOSTLY_Q4_K_M",
    }
    return int(gguf.LlamaFileType[names.get(wanted, f"MOSTLY_{wanted}")])


def _more_bits(i, n):
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _fits(type_name, n_cols):
    return n_cols % block_elements(type_name) == 0


def _fall_back(type_name, n_cols):
    if not _fits(type_name, n_cols):
        type_name = _FALLBACK.get(type_name, type_name)
    return type_name if _fits(type_name, n_cols) else "F16"


def _attn_v(model, mix, base, i):
    wide = model.n_heads // model.n_kv_heads >= 4
    if model.n_experts == 8:
        return "Q8_0"
    chosen = base
    if mix == "Q2_K":
        chosen = "Q4_K" if wide else "Q3_K"
    elif mix == "Q3_K_M":
        chosen = "Q5_K" if i < 2 else "Q4_K"
    elif mix == "Q3_K_L" or (mix in ("IQ4_NL", "IQ4_XS") and wide):
        chosen = "Q5_K"
    elif mix in ("Q4_K_M", "Q5_K_M") and _more_bits(i, model.n_layers):
        chosen = "Q6_K"
    elif mix == "Q4_K_S" and i < 4:
        chosen = "Q5_K"
    # 80 layers with grouped heads: attn_v is an eighth of attn_q, so more bits cost little.
    is_70b = model.n_layers == 80 and (model.arch == "qwen2" or model.n_heads != model.n_kv_heads)
    return "Q5_K" if is_70b and chosen in ("Q3_K", "Q4_K") else chosen


def _ffn_down(model, mix, base, i):
    n = model.n_layers
    if mix == "Q2_K":
        return "Q3_K"
    if mix == "Q3_K_M":
        return "Q5_K" if i < n // 16 else "Q4_K"
    if mix == "Q3_K_L":
        return "Q5_K"
    if mix in ("Q4_K_M", "Q5_K_M") and _more_bits(i, n):
        return "Q6_K"
    if mix in ("Q4_K_S", "IQ4_NL", "IQ4_XS") and i < n // 8:
        return "Q5_K"
    return base


def _attn_output(model, mix, base):
    if model.n_experts == 8:
        few_bits = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS")
        return "Q5_K" if mix in few_bits else base
    return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(mix, base)


def _by_rule(model, tensor, mix):
    base = MIXES[mix]
    if base in _FLOATS:
        return base
    name = tensor.name
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        return "Q8_0" if not _fits(base, tensor.dims[0]) or base == "Q8_0" else "Q6_K"
    if name == "token_embd.weight":
        return base
    layer, role = re.fullmatch(r"blk\.(\d+)\.(.*)\.weight", name).groups()
    if role == "attn_v":
        return _attn_v(model, mix, base, int(layer))
    if role == "attn_k":
        return "Q8_0" if model.n_experts == 8 else base
    if role == "attn_output":
        return _attn_output(model, mix, base)
    if role.startswith("ffn_down"):
        return _ffn_down(model, mix, base, int(layer))
    return base


def _is_quantised(tensor):
    return len(tensor.dims) > 1 and "ffn_gate_inp" not in tensor.name


def types(model, tensors, wanted, pure=False):
    """Tensor name → type name. `wanted` is a mix, a type, or "mixed": all types in turn, wherever rows
    allow."""
    out, turn = {}, 0
    for tensor in tensors:
        if not _is_quantised(tensor):
            out[tensor.name] = "F32"
        elif wanted == "mixed":
            fitting = [t for t in TYPES if _fits(t, tensor.dims[0])]
            out[tensor.name] = fitting[turn % len(fitting)]
            turn += 1
        else:
            chosen = wanted if pure or wanted not in MIXES else _by_rule(model, tensor, wanted)
            out[tensor.name] = _fall_back(MIXES.get(chosen, chosen), tensor.dims[0])
    return out
