"""Random blocks of every quant format, by numpy alone: valid (finite scales), of mean 0 and of a wanted
standard deviation. The mean matters: a bias of a tenth of the deviation is the same in every row and grows
from layer to layer."""

import numpy as np

import gguf

SUPER = 256  # elements in a block of a K-quant


def _parts(n, layout):
    """An uninitialised structured array: layout = [(field, dtype, shape)], packed as in the file."""
    return np.empty(n, dtype=np.dtype([(name, kind, shape) for name, kind, shape in layout]))


def _bytes(rng, shape):
    return rng.integers(0, 256, size=shape, dtype=np.uint8)


def _scale(rng, n, signed):
    """Block scales around 1, ±25 %; with random signs where the format's codes are not symmetrical around
    0."""
    scale = rng.uniform(0.75, 1.25, n).astype(np.float32)
    return scale * rng.choice(np.float32([-1, 1]), n) if signed else scale


def _simple(n, rng, d, n_code_bytes, high_bits=False, offset=None):
    """The 32-element formats: [d, (m,) (qh,) codes]. With an offset, m = -offset·d puts the codes' mean at
    0."""
    layout = [("d", "<f2", ())]
    if offset is not None:
        layout.append(("m", "<f2", ()))
    if high_bits:
        layout.append(("qh", "u1", (4,)))
    out = _parts(n, layout + [("qs", "u1", (n_code_bytes,))])
    scale = _scale(rng, n, signed=offset is None) * np.float32(d)
    out["d"] = scale
    if offset is not None:
        out["m"] = -offset * scale
    if high_bits:
        out["qh"] = _bytes(rng, (n, 4))
    out["qs"] = _bytes(rng, (n, n_code_bytes))
    return out


def _q8_0(n, rng, d):
    out = _simple(n, rng, d, 32)
    out["qs"][out["qs"] == 128] = 0  # -128 is no code that a quantiser writes
    return out


def _q2_k(n, rng, d):
    out = _parts(n, [("scales", "u1", (16,)), ("qs", "u1", (64,)), ("d", "<f2", ()), ("dmin", "<f2", ())])
    scale = rng.integers(8, 16, (n, 16), dtype=np.uint8)
    out["scales"] = scale | (scale << 4)  # the minimum's code is the scale's: codes average 1.5
    out["qs"] = _bytes(rng, (n, 64))
    factor = _scale(rng, n, False) * np.float32(d)
    out["d"], out["dmin"] = factor, 1.5 * factor
    return out


def _q3_k(n, rng, d):
    out = _parts(n, [("hmask", "u1", (32,)), ("qs", "u1", (64,)), ("scales", "u1", (12,)), ("d", "<f2", ())])
    out["hmask"], out["qs"], out["scales"] = _bytes(rng, (n, 32)), _bytes(rng, (n, 64)), _bytes(rng, (n, 12))
    out["d"] = _scale(rng, n, True) * np.float32(d)
    return out


def _pack_scale_min(scale, minimum):
    """(n, 8) six-bit scales and minima → the (n, 12) bytes of Q4_K and Q5_K."""
    low_s, high_s, low_m, high_m = scale[:, :4], scale[:, 4:], minimum[:, :4], minimum[:, 4:]
    return np.concatenate(
        [low_s | ((high_s >> 4) << 6), low_m | ((high_m >> 4) << 6), (high_s & 15) | ((high_m & 15) << 4)],
        axis=1,
    )


def _q45_k(n, rng, d, with_high_bit):
    layout = [("d", "<f2", ()), ("dmin", "<f2", ()), ("scales", "u1", (12,))]
    if with_high_bit:
        layout.append(("qh", "u1", (32,)))
    out = _parts(n, layout + [("qs", "u1", (128,))])
    scale = rng.integers(32, 64, (n, 8), dtype=np.uint8)
    minimum = np.clip(scale + rng.integers(-1, 2, (n, 8)), 0, 63).astype(np.uint8)
    out["scales"] = _pack_scale_min(scale, minimum)
    factor = _scale(rng, n, False) * np.float32(d)
    out["d"], out["dmin"] = factor, (15.5 if with_high_bit else 7.5) * factor
    if with_high_bit:
        out["qh"] = _bytes(rng, (n, 32))
    out["qs"] = _bytes(rng, (n, 128))
    return out


def _q6_k(n, rng, d):
    out = _parts(n, [("ql", "u1", (128,)), ("qh", "u1", (64,)), ("scales", "i1", (16,)), ("d", "<f2", ())])
    out["ql"], out["qh"] = _bytes(rng, (n, 128)), _bytes(rng, (n, 64))
    magnitude = rng.integers(64, 128, (n, 16), dtype=np.int8)
    out["scales"] = magnitude * rng.choice(np.int8([-1, 1]), (n, 16))
    out["d"] = _scale(rng, n, False) * np.float32(d)
    return out


def _iq4_xs(n, rng, d):
    out = _parts(
        n, [("d", "<f2", ()), ("scales_h", "u1", (2,)), ("scales_l", "u1", (4,)), ("qs", "u1", (128,))]
    )
    out["scales_h"], out["scales_l"], out["qs"] = (
        _bytes(rng, (n, 2)),
        _bytes(rng, (n, 4)),
        _bytes(rng, (n, 128)),
    )
    out["d"] = _scale(rng, n, True) * np.float32(d)
    return out


_MAKERS = {
    "Q4_0": lambda n, rng, d: _simple(n, rng, d, 16),
    "Q4_1": lambda n, rng, d: _simple(n, rng, d, 16, offset=7.5),
    "Q5_0": lambda n, rng, d: _simple(n, rng, d, 16, high_bits=True),
    "Q5_1": lambda n, rng, d: _simple(n, rng, d, 16, high_bits=True, offset=15.5),
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": lambda n, rng, d: _q45_k(n, rng, d, False),
    "Q5_K": lambda n, rng, d: _q45_k(n, rng, d, True),
    "Q6_K": _q6_k,
    "IQ4_NL": lambda n, rng, d: _simple(n, rng, d, 16),
    "IQ4_XS": _iq4_xs,
}
_unit_scales = {}


def dequantise(data, type_name):
    """Bytes of whole blocks → float32 values, by the gguf package."""
    return gguf.quants.dequantize(data.reshape(1, -1), gguf.GGMLQuantizationType[type_name]).ravel()


def unit_scale(type_name):
    """The block scale that gives weights of standard deviation 1, measured once on a sample of blocks."""
    if type_name not in _unit_scales:
        sample_d = 2.0**-10
        sample = _MAKERS[type_name](2000, np.random.default_rng(1), sample_d)
        _unit_scales[type_name] = sample_d / float(dequantise(sample.view(np.uint8), type_name).std())
    return _unit_scales[type_name]


def random_blocks(type_name, n_blocks, std, rng):
    """n_blocks valid blocks as a flat uint8 array; a block is one element for the float formats."""
    if type_name in _MAKERS:
        return _MAKERS[type_name](n_blocks, rng, std * unit_scale(type_name)).view(np.uint8)
    values = rng.standard_normal(n_blocks, dtype=np.float32) * np.float32(std)
    return from_floats(values, type_name)


def from_floats(values, type_name):
    """Float32 values → bytes, for the formats that the gguf package can write; NotImplementedError for the
    others."""
    data = gguf.quants.quantize(
        np.ascontiguousarray(values, dtype=np.float32), gguf.GGMLQuantizationType[type_name]
    )
    return np.ascontiguousarray(data).view(np.uint8).ravel()
