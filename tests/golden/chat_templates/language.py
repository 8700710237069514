#!/usr/bin/env python3
"""Writes language.json: the template language piece by piece, each with what jinja2 makes of it.

Every filter, test, method, operator and statement that tandem has, and what must be refused.

    python3 tests/golden/chat_templates/language.py
"""
import json
import pathlib

import hf_environment
from language_cases import EXPRESSIONS, STRICTER, TEMPLATES, VARIABLES

FOLDER = pathlib.Path(__file__).parent


def main():
    sources = ["{{ " + e + " }}" for e in EXPRESSIONS] + TEMPLATES
    assert len(set(sources)) == len(sources), [s for s in sources if sources.count(s) > 1][:3]
    cases = []
    for source in sources:
        kind, text = hf_environment.render(source, VARIABLES)
        if " at 0x" in text:  # a Python object by its address: nothing to compare
            continue
        cases.append({"source": source, kind: text})
    out = {"clock": hf_environment.CLOCK.strftime("%Y-%m-%d %H:%M:%S"), "variables": VARIABLES,
           "stricter": STRICTER, "cases": cases}
    text = json.dumps(out, ensure_ascii=False, indent=0)
    (FOLDER / "language.json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(cases)} cases, {sum('error' in c for c in cases)} of them errors")


if __name__ == "__main__":
    main()
