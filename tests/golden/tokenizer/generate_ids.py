#!/usr/bin/env python3
"""Writes ids.json: the ids of a list of texts by llama.cpp's own tokenizers (sources of 2026-11 were used).

ids.json: {"texts": [{"text": ...} or {"hex": bytes that are no UTF-8}, ...],
           "ids": {vocabulary file: {"plain": [[id, ...], ...], "special": [[id, ...], ...]}}}
plain: neither BOS nor special tokens of the text; special: both.

Usage: generate_ids.py LLAMA_IDS FILE.gguf... > ids.json     LLAMA_IDS: llama_ids.cpp of this folder, compiled
The files: the vocabularies that llama.cpp carries as models/ggml-vocab-*.gguf, and the two models that
scripts/fetch_models brings.
"""

import json
import os
import subprocess
import sys

TEXTS = [
    "",
    " ",
    "  ",
    "   ",
    "a",
    " a",
    "  a",
    "a ",
    "a  ",
    "\n",
    "\n\n",
    "\n\n\n\n\n",
    "\t",
    "\t\t\t",
    " \n ",
    "\r\n",
    "a\r\nb\r\n\r\nc",
    "line one\n  line two\n\n\n    line three\n\tline four\n",
    "trailing spaces   \nand more   ",
    " " * 40 + "x",
    "x" + "\n" * 40,
    "Hello, world!",
    "The capital of France is",
    "I'm sure you'RE right; they'Ve done it. 'TIS.",
    "don't DON'T Don’t",
    "1",
    "12",
    "123",
    "1234",
    "12345678901234567890",
    "3.14159 1,000,000 1e-9 0x1F",
    "٣٤١٢ १२३ ½²Ⅳ １２３",
    "def f(x):\n    return {k: v for k, v in x.items()}  # comment\n",
    'int main() { printf("%d\\n", 42); return 0; }',
    "https://example.com/a/b.html?x=1&y=2#z",
    "user.name+tag@mail.example.org",
    "C:\\Windows\\System32",
    "a_b-c__d--e...f!!!???",
    "Äpfel, naïve façade, coöperate, Ærøskøbing, Łódź, İstanbul, Việt",
    "Привет, мир! Ёлка.",
    "Ελληνικά γλώσσα",
    "שלום עולם",
    "مرحبا بالعالم، كيف حالك؟",
    "हिन्दी में लिखा हुआ",
    "বাংলা ভাষা",
    "ภาษาไทย",
    "កាន់តែពិសេស",
    "မြန်မာ",
    "ქართული",
    "Հայերեն",
    "አማርኛ",
    "你好，世界。",
    "東京タワーへようこそ",
    "안녕하세요 세계",
    "𠀀𠁁 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𓀀",
    "👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 😀😀",
    "e\u0301 a\u0308\u0301 \u0915\u094d\u0937",
    "\u00a0nbsp\u3000wide\u200bzero\ufeffbom\u00adsoft",
    "▁lower ▁▁ one eighth block",
    "\u0000nul\u0001\u0002\u007f",
    "\u0085\u2028\u000b\u000c",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>",
    "a<|endoftext|>b",
    "<s>",
    "<unk>x<bos>y<pad>",
    "<0x0A><0xff>",
    "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "[INST] Hi [/INST]",
    "<｜begin▁of▁sentence｜>User: Hi",
    "<|im_end",
    "|im_end|>",
    "<<|im_end|>>",
    "<table><tr><td>x</td></tr></table>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ÀÈÌÒÙ" * 8,
    "=" * 70,
    "antidisestablishmentarianism",
    # No lead byte with other bytes behind it: llama.cpp's SPM takes those for its own, even a space.
    b"\xff",
    b"ab\x80cd",
    b"\xe2\x82",
    b"x \x80\xbf\x80 y",
    b"caf\xc3",
]


def tokenize(program, vocabulary, special):
    lines = [
        f"{special:d} {text.hex() if isinstance(text, bytes) else text.encode().hex()}\n" for text in TEXTS
    ]
    out = subprocess.run(
        [program, vocabulary], input="".join(lines), stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    ids = [json.loads(line) for line in out.splitlines()]
    assert len(ids) == len(TEXTS)
    return ids


def main():
    program, vocabularies = sys.argv[1], sys.argv[2:]
    texts = ",\n".join(
        json.dumps({"hex": text.hex()} if isinstance(text, bytes) else {"text": text}) for text in TEXTS
    )
    entries = []
    for vocabulary in vocabularies:
        ways = {way: tokenize(program, vocabulary, way == "special") for way in ("plain", "special")}
        lines = [f'"{way}": {json.dumps(ids, separators=(",", ":"))}' for way, ids in ways.items()]
        entries.append(f'"{os.path.basename(vocabulary)}": {{\n' + ",\n".join(lines) + "}")
    print('{"texts": [\n' + texts + '],\n"ids": {\n' + ",\n".join(entries) + "}}")


if __name__ == "__main__":
    main()
