#!/usr/bin/env python3
"""Writes runtime/text/jinja/unicode_{classes,cases}.inc from this Python's own str methods.

The template interpreter must treat strings as Python does, so Python is asked about every code point. Run it
with the Python that renders the expected outputs of tests/golden/chat_templates:
    python3 scripts/generate_unicode_tables.py runtime/text/jinja
"""
import pathlib
import sys
import unicodedata

FLAGS = ["alpha", "decimal", "digit", "numeric", "lower", "upper", "title", "space", "printable",
         "ignorable", "id_start", "id_continue"]


def flags_of(c):
    def ends_word(before):  # whether a capital sigma behind it becomes a final one
        return (before + c + "\u03a3").lower()[-1] == "\u03c2"

    tests = [c.isalpha(), c.isdecimal(), c.isdigit(), c.isnumeric(), c.islower(), c.isupper(),
             c.istitle() and not c.isupper(), c.isspace(), c.isprintable(),
             ends_word("A") and not ends_word("1"),
             c.isidentifier(), ("a" + c).isidentifier()]
    return sum(1 << i for i, t in enumerate(tests) if t)


def write(path, rows):
    lines, line = [], ""
    for row in rows:
        if len(line) + len(row) + 2 > 108:
            lines.append(line)
            line = ""
        line += (" " if line else "") + row + ","
    lines.append(line)
    head = (f"// Made by scripts/generate_unicode_tables.py from Unicode {unicodedata.unidata_version}; "
            "not by hand.\n")
    path.write_text(head + "// clang-format off\n" + "\n".join(lines) + "\n// clang-format on\n")


def classes():
    ranges = []
    for cp in range(0x110000):
        f = 0 if 0xD800 <= cp < 0xE000 else flags_of(chr(cp))
        if ranges and ranges[-1][2] == f:
            ranges[-1][1] = cp
        else:
            ranges.append([cp, cp, f])
    return ["%d,%d" % (first, f) for first, last, f in ranges]


def cases():
    """Runs of (first, last, stride, delta, mode); what maps to several characters goes to the specials."""
    singles, specials = [], []
    for mode, name in enumerate(("upper", "lower", "title")):
        runs = []
        for cp in range(0x110000):
            if 0xD800 <= cp < 0xE000:
                continue
            mapped = getattr(chr(cp), name)()
            if mapped == chr(cp):
                continue
            if len(mapped) > 1:
                specials.append("{%#x,%d,{%s}}" % (cp, mode, ",".join("%#x" % ord(m) for m in mapped)))
                continue
            delta = ord(mapped) - cp
            if runs and runs[-1][3] == delta:
                last = runs[-1]
                step = cp - last[1]
                if (last[0] == last[1] and step <= 2) or (last[0] != last[1] and step == last[2]):
                    last[1], last[2] = cp, step
                    continue
            runs.append([cp, cp, 1, delta])
        singles += ["{%#x,%#x,%d,%d,%d}" % (a, b, s, d, mode) for a, b, s, d in runs]
    return singles, specials


def main():
    folder = pathlib.Path(sys.argv[1])
    write(folder / "unicode_classes.inc", classes())
    singles, specials = cases()
    write(folder / "unicode_cases.inc", singles)
    write(folder / "unicode_special_cases.inc", specials)


if __name__ == "__main__":
    main()
