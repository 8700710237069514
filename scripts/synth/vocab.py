"""Vocabularies: a real one copied from a file and padded, or a small trained one that spells every byte."""

import collections
import itertools

from synth import container

# What the small vocabularies are trained on, so that ordinary text makes words and not single bytes only.
_TEXT = """\
The capital of France is Paris. Once upon a time there was a small machine that had to share its
work with another, and the other with the next, for no one of them could hold all of the weights.
What one had computed it told the others, and then they went on together, token after token, until
the answer was there. In 1843 the first program was written for an engine that was never built; it
needed 12 steps and 3 numbers. How many are there today? The water of the river comes from the
mountains in the north and goes to the sea. He said that she would be here, but they were not in the
house when we came. This is what you can do with it: read, write, think, and start again."""

_NORMAL, _UNKNOWN, _CONTROL, _UNUSED, _BYTE = 1, 2, 3, 5, 6
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def copied(path, n_vocab):
    """The tokenizer keys of another GGUF file, filled up with unused tokens to n_vocab."""
    keys = {k: v for k, v in container.KeyReader(path).keys.items() if k.startswith("tokenizer.")}
    if "tokenizer.ggml.tokens" not in keys:
        raise ValueError(f"{path}: no key tokenizer.ggml.tokens")
    n_missing = n_vocab - container.array_length(keys["tokenizer.ggml.tokens"])
    if n_missing < 0:
        raise ValueError(
            f"{path}: {n_vocab - n_missing} tokens, more than the model's vocabulary of {n_vocab}"
        )
    fill = {
        "tokens": ("str", [f"[unused{i}]" for i in range(n_missing)]),
        "token_type": ("i32", [_UNUSED] * n_missing),
        "scores": ("f32", [-1e4] * n_missing),
    }
    for name, (kind, items) in fill.items():
        name = f"tokenizer.ggml.{name}"
        if name in keys:
            keys[name] = container.extend_array(keys[name], kind, items)
    return [(name, "raw", value) for name, value in keys.items()]


def _train(words, n_merges):
    """Byte-pair encoding: [(left, right)] in order, at most n_merges, from {tuple of pieces: count}."""
    words, merges = dict(words), []
    while len(merges) < n_merges:
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        merged = {}
        for word, count in words.items():
            out, i = [], 0
            while i < len(word):
                step = 2 if word[i : i + 2] == best else 1
                out.append("".join(word[i : i + step]))
                i += step
            merged[tuple(out)] = merged.get(tuple(out), 0) + count
        words = merged
    return merges


def _byte_letters():
    """GPT-2's printable stand-in for each byte: itself where it is visible, else a letter from 256 up."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def _bpe(n_vocab, pre):
    letters = _byte_letters()
    special = {
        "llama-bpe": ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"],
        "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    }[pre]
    n_merges = n_vocab - 256 - len(special)
    if n_merges < 0:
        raise ValueError(f"a byte-level vocabulary has at least {256 + len(special)} tokens, not {n_vocab}")
    words = collections.Counter()
    for i, word in enumerate(_TEXT.replace("\n", " ").split()):
        words[tuple(letters[b] for b in (" " * (i > 0) + word).encode())] += 1
    merges = _train(words, n_merges)
    tokens = [letters[b] for b in range(256)] + ["".join(m) for m in merges]
    tokens = list(dict.fromkeys(tokens))
    kinds = [_NORMAL] * len(tokens)
    n_unused = n_vocab - len(tokens) - len(special)
    tokens += [f"[unused{i}]" for i in range(n_unused)] + special
    kinds += [_UNUSED] * n_unused + [_CONTROL] * len(special)
    first = n_vocab - len(special)
    ends = {"llama-bpe": (first, first + 1), "qwen2": (first, first + 2)}[pre]
    return [
        ("tokenizer.ggml.model", "str", "gpt2"),
        ("tokenizer.ggml.pre", "str", pre),
        ("tokenizer.ggml.tokens", "[str]", tokens),
        ("tokenizer.ggml.token_type", "[i32]", kinds),
        ("tokenizer.ggml.merges", "[str]", [" ".join(m) for m in merges]),
        ("tokenizer.ggml.bos_token_id", "u32", ends[0]),
        ("tokenizer.ggml.eos_token_id", "u32", ends[1]),
        ("tokenizer.ggml.add_bos_token", "bool", pre == "llama-bpe"),
        ("tokenizer.chat_template", "str", _CHATML),
    ]


def _spm(n_vocab, gemma):
    special = ["<pad>", "<eos>", "<bos>", "<unk>"] if gemma else ["<unk>", "<s>", "</s>"]
    tokens = special + [f"<0x{b:02X}>" for b in range(256)]
    kinds = [_UNKNOWN if t == "<unk>" else _CONTROL for t in special] + [_BYTE] * 256
    if n_vocab < len(tokens) + 1:
        raise ValueError(f"an SPM vocabulary has at least {len(tokens) + 1} tokens, not {n_vocab}")
    words = collections.Counter(tuple("▁" + word) for word in _TEXT.replace("\n", " ").split())
    letters = collections.Counter()
    for word, count in words.items():
        letters.update({letter: count for letter in word})
    singles = [letter for letter, _ in letters.most_common(n_vocab - len(tokens))]
    merges = _train(words, n_vocab - len(tokens) - len(singles))
    pieces = list(dict.fromkeys(["".join(m) for m in merges])) + singles
    n_unused = n_vocab - len(tokens) - len(pieces)
    scores = [0.0] * len(tokens) + [-float(i) for i in range(len(pieces))] + [-1e4] * n_unused
    kinds += [_NORMAL] * len(pieces) + [_UNUSED] * n_unused
    tokens += pieces + [f"[unused{i}]" for i in range(n_unused)]
    ids = {
        name: tokens.index(t)
        for name, t in (
            ("bos", "<bos>" if gemma else "<s>"),
            ("eos", "<eos>" if gemma else "</s>"),
            ("unknown", "<unk>"),
        )
    }
    return [
        ("tokenizer.ggml.model", "str", "llama"),
        ("tokenizer.ggml.pre", "str", "default"),
        ("tokenizer.ggml.tokens", "[str]", tokens),
        ("tokenizer.ggml.scores", "[f32]", scores),
        ("tokenizer.ggml.token_type", "[i32]", kinds),
        *((f"tokenizer.ggml.{name}_token_id", "u32", i) for name, i in ids.items()),
        ("tokenizer.ggml.add_bos_token", "bool", True),
        ("tokenizer.ggml.add_eos_token", "bool", False),
        ("tokenizer.ggml.add_space_prefix", "bool", not gemma),
    ]


def small(kind, n_vocab):
    """A vocabulary of n_vocab tokens; kind: llama-bpe | qwen2 | spm | gemma."""
    return _bpe(n_vocab, kind) if kind in ("llama-bpe", "qwen2") else _spm(n_vocab, kind == "gemma")
