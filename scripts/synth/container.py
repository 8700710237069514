"""The GGUF container: keys and tensor directory to bytes, and the raw keys of another file for copying.
Version 3."""

import struct

import gguf

ALIGNMENT = 32
_SCALARS = {
    "u8": (0, "<B"),
    "i8": (1, "<b"),
    "u16": (2, "<H"),
    "i16": (3, "<h"),
    "u32": (4, "<I"),
    "i32": (5, "<i"),
    "f32": (6, "<f"),
    "bool": (7, "<?"),
    "u64": (10, "<Q"),
    "i64": (11, "<q"),
    "f64": (12, "<d"),
}
_STRING, _ARRAY = 8, 9
_SIZES = {number: struct.calcsize(form) for number, form in _SCALARS.values()}


def _string(text):
    data = text if isinstance(text, bytes) else text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def array_items(kind, values):
    """The items of an array as bytes, without its head; kind "str" or a scalar's."""
    if kind == "str":
        return b"".join(map(_string, values))
    return struct.pack(f"<{len(values)}{_SCALARS[kind][1][1]}", *values)


def array(kind, n, items):
    """An array value from its item bytes."""
    number = _STRING if kind == "str" else _SCALARS[kind][0]
    return struct.pack("<IQ", number, n) + items


def key(name, kind, value):
    """One key with its value: kind "str", a scalar's name, "[kind]" for a list, or "raw" for (type number,
    bytes)."""
    if kind == "raw":
        number, data = value
    elif kind == "str":
        number, data = _STRING, _string(value)
    elif kind.startswith("["):
        number, data = _ARRAY, array(kind[1:-1], len(value), array_items(kind[1:-1], value))
    else:
        number, form = _SCALARS[kind]
        data = struct.pack(form, value)
    return _string(name) + struct.pack("<I", number) + data


def padded(n_bytes):
    return (n_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def head(keys, tensors, types, sizes):
    """Everything before the tensor data, padded. keys: (name, kind, value); types and sizes by tensor
    name."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(keys))]
    parts += [key(*k) for k in keys]
    offset = 0
    for t in tensors:
        parts.append(_string(t.name) + struct.pack(f"<I{len(t.dims)}Q", len(t.dims), *t.dims))
        parts.append(struct.pack("<IQ", int(gguf.GGMLQuantizationType[types[t.name]]), offset))
        offset += padded(sizes[t.name])
    data = b"".join(parts)
    return data + bytes(padded(len(data)) - len(data))


class KeyReader:
    """Reads the keys of a GGUF file as raw values, so that hundreds of thousands of strings are copied, not
    parsed."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self._data = f.read()
        magic, version, _, n_keys = struct.unpack_from("<4sIQQ", self._data)
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"{path}: not a GGUF file of version 2 or 3")
        self._at = 24
        self.keys = {}  # name → (type number, value bytes)
        for _ in range(n_keys):
            name = self._take_string().decode("utf-8")
            number = self._take("<I")
            begin = self._at
            self._skip(number)
            self.keys[name] = (number, self._data[begin : self._at])

    def _take(self, form):
        value = struct.unpack_from(form, self._data, self._at)[0]
        self._at += struct.calcsize(form)
        return value

    def _take_string(self):
        n = self._take("<Q")
        self._at += n
        return self._data[self._at - n : self._at]

    def _skip(self, number):
        if number == _STRING:
            self._take_string()
        elif number == _ARRAY:
            item, n = self._take("<I"), self._take("<Q")
            if item != _STRING:
                self._at += n * _SIZES[item]
                return
            data, at, length_at = self._data, self._at, struct.Struct("<Q").unpack_from
            for _ in range(n):
                at += 8 + length_at(data, at)[0]
            self._at = at
        else:
            self._at += _SIZES[number]


def extend_array(value, kind, items):
    """A raw array value with more items of the given kind at its end."""
    number, data = value
    item, n = struct.unpack_from("<IQ", data)
    return number, struct.pack("<IQ", item, n + len(items)) + data[12:] + array_items(kind, items)


def array_length(value):
    return struct.unpack_from("<IQ", value[1])[1]
