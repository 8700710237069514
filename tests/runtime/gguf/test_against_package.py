"""Holds the GGUF reader against the gguf Python package: files that the package writes, of every value and tensor
type, must come out of the dump tool as the package's own reader sees them. Run by ctest, which names the dump
tool."""

import os
import pathlib
import struct
import subprocess
import tempfile
import unittest

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

DUMP = os.environ["TANDEM_DUMP_GGUF"]
TYPE_NAMES = {
    GGUFValueType.UINT8: "u8", GGUFValueType.INT8: "i8", GGUFValueType.UINT16: "u16",
    GGUFValueType.INT16: "i16", GGUFValueType.UINT32: "u32", GGUFValueType.INT32: "i32",
    GGUFValueType.FLOAT32: "f32", GGUFValueType.BOOL: "bool", GGUFValueType.STRING: "string",
    GGUFValueType.UINT64: "u64", GGUFValueType.INT64: "i64", GGUFValueType.FLOAT64: "f64",
}  # fmt: skip
# The package describes a layout of 40 bytes, which no file has been written with for years; the program has 36.
OUTDATED = {GGMLQuantizationType.Q8_1}


def hexed(text):
    return "x" + (text if isinstance(text, bytes) else text.encode()).hex()


def shown(value, kind):
    if kind == GGUFValueType.STRING:
        return hexed(value)
    if kind in (GGUFValueType.FLOAT32, GGUFValueType.FLOAT64):
        return struct.pack(">d", float(value)).hex()
    return str(int(value))


def field_line(field):
    """One line of the dump for a field of the package's reader."""
    kind = field.types[-1]
    values = [field.parts[i] for i in field.data]
    texts = [shown(bytes(v) if kind == GGUFValueType.STRING else v[0], kind) for v in values]
    if field.types[0] == GGUFValueType.ARRAY:
        # The package forgets the element type of an empty array.
        name = TYPE_NAMES[kind] if values else "?"
        return " ".join([f"kv {hexed(field.name)} array:{name} {len(values)}", *texts])
    return f"kv {hexed(field.name)} {TYPE_NAMES[kind]} {texts[0]}"


def expected_lines(paths):
    """The dump as it must be, from the package's reader: metadata of the first part, sorted, then all tensors."""
    lines = []
    for index, path in enumerate(paths):
        reader = gguf.GGUFReader(path)
        if index == 0:
            lines.append(f"version {reader.fields['GGUF.version'].parts[0][0]}")
            fields = [f for f in reader.fields.values() if not f.name.startswith("GGUF.")]
            lines += [field_line(f) for f in sorted(fields, key=lambda f: f.name.encode())]
        for tensor in reader.tensors:
            shape = "x".join(str(n) for n in tensor.shape)
            lines.append(
                f"tensor {hexed(tensor.name)} {tensor.tensor_type.name} {shape} {index} "
                f"{tensor.data_offset} {tensor.n_bytes}"
            )
    return lines


def dumped_lines(path):
    done = subprocess.run([DUMP, str(path)], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout.splitlines()


def scalars(writer):
    writer.add_uint8("t.u8", 255)
    writer.add_int8("t.i8", -128)
    writer.add_uint16("t.u16", 65535)
    writer.add_int16("t.i16", -32768)
    writer.add_uint32("t.u32", 2**32 - 1)
    writer.add_int32("t.i32", -(2**31))
    writer.add_uint64("t.u64", 2**64 - 1)
    writer.add_int64("t.i64", -(2**63))
    writer.add_float32("t.f32", 0.1)
    writer.add_float64("t.f64", -1.0e-300)
    writer.add_bool("t.true", True)
    writer.add_bool("t.false", False)
    writer.add_string("t.string", "h\u00e9 \U0001f600\n\x00 end")


def arrays(writer, n=300):
    """One array a type, with values over the type's whole range."""
    random = np.random.default_rng(1)
    for kind, name in TYPE_NAMES.items():
        if kind == GGUFValueType.STRING:
            values = ["w" * int(k) + str(k) for k in random.integers(0, 40, n)]
        elif kind == GGUFValueType.BOOL:
            values = [bool(b) for b in random.integers(0, 2, n)]
        elif name in ("f32", "f64"):
            values = [float(v) for v in random.normal(size=n)]
        else:
            info = np.iinfo({"u": "uint", "i": "int"}[name[0]] + name[1:])
            values = [int(v) for v in random.integers(info.min, info.max, n, dtype=info.dtype, endpoint=True)]
        writer.add_key_value(f"a.{name}", values, GGUFValueType.ARRAY, sub_type=kind)


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_bytes(shape, seed):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class AgainstPackage(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def writer(self, **options):
        return gguf.GGUFWriter(self.folder / "m.gguf", "llama", **options)

    def compare(self, paths):
        dumped = dumped_lines(paths[0])
        self.assertEqual(dumped, expected_lines(paths))
        return dumped

    def test_scalars(self):
        writer = self.writer()
        scalars(writer)
        close(writer)
        dumped = self.compare([self.folder / "m.gguf"])
        self.assertEqual(len(dumped), 1 + 1 + 13)
        # Not only what both readers think: what was written.
        self.assertIn(f"kv {hexed('t.i64')} i64 {-(2**63)}", dumped)
        self.assertIn(f"kv {hexed('t.string')} string {hexed(chr(0x68) + 'é 😀' + chr(10) + chr(0) + ' end')}", dumped)

    def test_arrays(self):
        writer = self.writer()
        arrays(writer)
        close(writer)
        self.assertEqual(len(self.compare([self.folder / "m.gguf"])), 1 + 1 + len(TYPE_NAMES))

    def test_large_arrays(self):
        writer = self.writer()
        arrays(writer, 16_000)  # 1.2 MB: more than the window that the reader sees of a file
        close(writer)
        self.compare([self.folder / "m.gguf"])

    def test_every_tensor_type(self):
        for alignment in (32, 8, 256):
            writer = self.writer()
            if alignment != 32:
                writer.add_custom_alignment(alignment)
            n_tensors = 0
            for kind, (block_elements, block_bytes) in gguf.GGML_QUANT_SIZES.items():
                if kind in OUTDATED:
                    continue
                for shape in ((1,), (3,), (2, 5), (2, 3, 5)):
                    data = random_bytes((*shape[:-1], shape[-1] * block_bytes), n_tensors)
                    writer.add_tensor(f"{kind.name}.{len(shape)}.{shape[0]}", data, raw_dtype=kind)
                    n_tensors += 1
            close(writer)
            dumped = self.compare([self.folder / "m.gguf"])
            self.assertEqual(sum(line.startswith("tensor ") for line in dumped), n_tensors)

    def test_split(self):
        writer = self.writer(split_max_tensors=2)
        scalars(writer)
        for i in range(7):
            writer.add_tensor(f"t{i}", np.arange(10 + i, dtype=np.float32))
        close(writer)
        paths = [self.folder / f"m-{i:05}-of-00004.gguf" for i in range(1, 5)]
        dumped = self.compare(paths)
        self.assertTrue(dumped[-1].split()[4] == "3")

    def test_real_models(self):
        folder = os.environ.get("TANDEM_MODELS")
        if not folder:
            self.skipTest("TANDEM_MODELS is not set")
        path = pathlib.Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf"
        dumped = self.compare([path])
        self.assertGreater(len(dumped), 250)

    def test_big_endian_is_refused(self):
        close(self.writer(endianess=gguf.GGUFEndian.BIG))
        with self.assertRaisesRegex(AssertionError, "m.gguf: the header: a big-endian GGUF file"):
            dumped_lines(self.folder / "m.gguf")

    def test_a_wrong_value_is_noticed(self):
        for key, value in (("t.i64", 5), ("t.i64", 6)):
            writer = gguf.GGUFWriter(self.folder / f"{value}.gguf", "llama")
            writer.add_int64(key, value)
            writer.add_tensor("t", np.arange(value, dtype=np.float32))
            close(writer)
        expected = expected_lines([self.folder / "5.gguf"])
        dumped = dumped_lines(self.folder / "6.gguf")
        self.assertEqual([a == b for a, b in zip(dumped, expected, strict=True)], [True, True, False, False])


if __name__ == "__main__":
    unittest.main()
