#!/usr/bin/env python3
"""Writes words.json: where each pre-tokenizer cuts a list of texts, by Hugging Face's `tokenizers` package
(pip install tokenizers; 0.23.3 was used), from the patterns as the models' own tokenizer.json have them.

words.json: {"texts": [text, ...], "cuts": {name as in tokenizer.ggml.pre: [[bytes of each word, ...], ...]}}

Usage: generate_words.py > words.json
"""

import json
import random

from tokenizers import Regex, pre_tokenizers

TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]%s[\p{Ll}\p{Lm}\p{Lo}\p{M}]%s"
DEEPSEEK_LETTERS = (
    r"\s?["
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d"
    "\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134"
    "\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17"
    "\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
    "]+"
)
DEEPSEEK_HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
BLOOM_WORD = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def modern(letter, number, not_punctuation):
    return [
        split(
            rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?{letter}+|{number}| ?[^\s{not_punctuation}]+[\r\n]*|{TAIL}"
        )
    ]


def cased(suffix, number):
    return [
        split(
            "|".join(
                [
                    UPPER % ("*", "+") + suffix,
                    UPPER % ("+", "*") + suffix,
                    number,
                    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
                    TAIL,
                ]
            )
        )
    ]


DIGITS = pre_tokenizers.Digits(individual_digits=True)
FAMILIES = {
    "gpt-2": [split(GPT2)],
    "smollm": [DIGITS, split(GPT2)],
    "llama-bpe": modern(r"\p{L}", r"\p{N}{1,3}", r"\p{L}\p{N}"),
    "qwen2": modern(r"\p{L}", r"\p{N}", r"\p{L}\p{N}"),
    "qwen35": modern(r"[\p{L}\p{M}]", r"\p{N}", r"\p{L}\p{M}\p{N}"),
    "falcon": [pre_tokenizers.Punctuation("contiguous"), split(GPT2), split("[0-9][0-9][0-9]")],
    "deepseek-llm": [
        split("[\r\n]"),
        split(DEEPSEEK_LETTERS),
        split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"),
        split(r"\s+$"),
        split(DEEPSEEK_HAN),
        split(r"\p{N}+"),
    ],
    "deepseek-coder": [
        split("[\r\n]"),
        split(r"\s?\p{L}+"),
        split(r"\s?\p{P}+"),
        split(DEEPSEEK_HAN),
        DIGITS,
    ],
    "deepseek-v3": [
        split(r"\p{N}{1,3}"),
        split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
        split(
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
            r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + TAIL
        ),
    ],
    "tekken": cased("", r"\p{N}"),
    "gpt-4o": cased(CONTRACTION + "?", r"\p{N}{1,3}"),
    "bloom": [split(BLOOM_WORD)],
    "viking": [split(BLOOM_WORD), DIGITS],
    "bailingmoe": [
        split(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
            r"|\s*[\r\n]|\s+(?!\S)|\s+"
        )
    ],
    "seed-coder": [
        split(rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{TAIL}")
    ],
}

FIXED = [
    "Hello, World! I'm sure you'RE  right; they'Ve done it, 'tis.\n\n  Next\tline \r\n\r\n end  ",
    "  \n  \n\n \t x  y   z    \n",
    "1 12 123 1234 12345678 3.14159 1,000,000 ٣٤١٢ १२३ ½²Ⅳ 2024-11-22T10:00",
    "int main() {\n\treturn a[0]->b != c && d++ <= 0x1F; // end\n}\n",
    "a/b/c //x/\n/y http://e.x/?q=1&r=2",
    "CamelCaseWORDs HTTPServer éÉcole ÀÉÎ straße ŒuvreÆ ǅungla",
    "Привет, мир! Ёлка нещо на Български",
    "你好，世界。我想在apple工作1314151天～ 東京タワー ひらがなカタカナ 한국어 텍스트",
    "שלום עולם مرحبا بالعالم، كيف؟ हिन्दी। বাংলা ไทย ខ្មែរ",
    "👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 😀😀 ✅ ☃",
    "é ä́ क्षि\u200dx \u200b\ufeff\u00ad",
    "\u00a0\u2003x \u3000y\u2028z\u2029 w\u0085v\x0b\x0c",
    "__init__ $var #tag @user %d ^_^ `code` ~~ <|im_end|> ''''' \"\"\" ...... ------",
    "x'S don'T we'll'd 've",
    "",
]
RANGES = [(0x20, 0x7E)] * 9 + [
    (0xA1, 0x24F),
    (0x370, 0x373),
    (0x386, 0x3FF),
    (0x400, 0x481),
    (0x5D0, 0x5EA),
    (0x620, 0x669),
    (0x905, 0x96F),
    (0xE01, 0xE3A),
    (0x1E00, 0x1EFF),
    (0x2010, 0x2027),
    (0x20A0, 0x20B0),
    (0x2150, 0x218B),
    (0x2200, 0x22FF),
    (0x2460, 0x24FF),
    (0x3001, 0x3030),
    (0x3041, 0x3096),
    (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3),
    (0xFF01, 0xFF60),
    (0x10400, 0x1044F),
    (0x1D7CE, 0x1D7FF),
    (0x1F600, 0x1F64F),
    (0x20000, 0x20100),
]
# Letters whose case folds to ASCII: the originals' (?i:) takes them for s and k, the program does not.
FOLDED = {0x17F, 0x212A}
SEPARATORS = [" "] * 6 + [
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    " \n",
    "\n ",
    "",
    "",
    " \t ",
    "\u00a0",
    "\u3000",
]


def random_text(source):
    text = ""
    for _ in range(source.randrange(6, 14)):
        first, last = source.choice(RANGES)
        points = (source.randint(first, last) for _ in range(source.randrange(1, 7)))
        text += "".join(chr(point) for point in points if point not in FOLDED) + source.choice(SEPARATORS)
    return text


def cuts(stages, text):
    words = pre_tokenizers.Sequence(stages).pre_tokenize_str(text)
    assert "".join(word for word, _ in words) == text
    return [len(word.encode()) for word, _ in words]


def main():
    source = random.Random(20260101)
    texts = FIXED + [random_text(source) for _ in range(40)]
    lines = [
        f'{json.dumps(name)}: {json.dumps([cuts(stages, text) for text in texts], separators=(",", ":"))}'
        for name, stages in FAMILIES.items()
    ]
    print(
        '{"texts": [\n'
        + ",\n".join(json.dumps(text) for text in texts)
        + '],\n"cuts": {\n'
        + ",\n".join(lines)
        + "}}"
    )


if __name__ == "__main__":
    main()
