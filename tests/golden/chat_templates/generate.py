#!/usr/bin/env python3
"""Renders every template of this folder on every conversation below with jinja2, as transformers does.

Writes expected.json: what runtime/text/chat_template must print, byte for byte, or that it must refuse.

    python3 tests/golden/chat_templates/generate.py      (needs jinja2; see CONTRIBUTING.md)
"""
import json
import pathlib

import hf_environment

FOLDER = pathlib.Path(__file__).parent

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather at a place.\nCelsius unless told otherwise.",
    "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "City & country, e.g. \"Bern, CH\""},
        "unit": {"type": "string", "enum": ["c", "f"], "description": "Scale"},
        "days": {"type": "integer", "description": "How many", "default": 1},
        "exact": {"type": "boolean"}, "share": {"type": "number", "default": 0.5}},
        "required": ["place"]}}}
ROUTE = {"type": "function", "function": {
    "name": "find_route", "description": "A way from A to B <naïve>",
    "parameters": {"type": "object", "properties": {
        "stops": {"type": "array", "items": {"type": "string"}, "description": "In order"},
        "options": {"type": "object", "properties": {
            "avoid": {"type": "array", "items": {"type": "string"}}}}},
        "required": ["stops", "options"]}}}
ROUTE["function"]["return"] = {"type": "string", "description": "the way"}
WEATHER["function"]["return"] = {"type": "object"}

SYSTEM = {"role": "system", "content": "You are a careful assistant.\nAnswer in one line."}
HELLO = {"role": "user", "content": "Hello, who are you?"}
ANSWER = {"role": "assistant", "content": "I am a language model."}
MORE = {"role": "user", "content": "  What is 2 + 2?\n"}
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "call00001", "type": "function",
     "function": {"name": "get_weather",
                  "arguments": {"place": "Genève", "days": 2, "exact": True, "share": 0.25}}}]}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001",
          "content": "{\"temperature\": 21.5}"}

CONVERSATIONS = {
    "user": [HELLO],
    "system": [SYSTEM, HELLO],
    "turns": [HELLO, ANSWER, MORE],
    "system_turns": [SYSTEM, HELLO, ANSWER, MORE],
    "ends_with_assistant": [SYSTEM, HELLO, ANSWER],
    "unicode": [{"role": "system", "content": "Grüß Gott 🌍, ты здесь?\t\"quoted\" \\ back"},
                {"role": "user", "content": "\u3000你好 <|im_end|> [INST] ﬁ ß İ\u00a0\n"},
                {"role": "assistant", "content": "\n\n Ça va, 'bien' & <b>toi</b>? \n"},
                {"role": "user", "content": "e\u0301 👩‍👩‍👧 \u200b"}],
    "empty_content": [{"role": "system", "content": ""}, {"role": "user", "content": ""},
                      {"role": "assistant", "content": ""}, {"role": "user", "content": " "}],
    "thinking": [HELLO, {"role": "assistant", "content": "<think>\nLet me see.\n\n</think>\n\nFour."}, MORE,
                 {"role": "assistant", "content": "</think>odd", "reasoning_content": "because\n"}, HELLO],
    "two_users": [HELLO, MORE],
    "assistant_first": [ANSWER, HELLO],
    "system_last": [HELLO, SYSTEM],
    "unknown_role": [{"role": "critic", "content": "Hm."}, HELLO],
    "none": [],
    "no_content": [{"role": "user"}],
    "null_content": [HELLO, {"role": "assistant", "content": None}, MORE],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"},
                                           {"type": "text", "text": " what is it?"}]}],
    "number_content": [{"role": "user", "content": 42}],
    "functions": [{"role": "functions", "content": "[]"}, SYSTEM, HELLO, ANSWER, MORE],
    "tool_call": [HELLO, CALL, RESULT],
    "tool_call_then_more": [SYSTEM, HELLO, CALL, RESULT, ANSWER, MORE],
    "two_calls": [MORE, {"role": "assistant", "content": "I'll look.", "tool_calls": CALL["tool_calls"] + [
        {"id": "call00002", "type": "function",
         "function": {"name": "find_route", "arguments": {"stops": ["A", "B"], "options": {"avoid": []}}}}]},
                  RESULT,
                  {"role": "tool", "name": "find_route", "tool_call_id": "call00002", "content": "straight on"}],
    "arguments_as_text": [HELLO, {"role": "assistant", "content": None, "tool_calls": [
        {"id": "abcdefghi", "type": "function",
         "function": {"name": "get_weather", "arguments": "{\"place\": \"Rome\"}"}}]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "warm"}],
}

# Which other variables go with a conversation; without tools both states of add_generation_prompt are tried.
EXTRA = {
    "plain": {"add_generation_prompt": False},
    "prompt": {"add_generation_prompt": True},
    "tools": {"add_generation_prompt": True, "tools": [WEATHER, ROUTE]},
    "no_thinking": {"add_generation_prompt": True, "enable_thinking": False, "thinking": False,
                    "reasoning_effort": "low", "thinking_budget": 512},
    "empty_tools": {"add_generation_prompt": True, "tools": []},
    "documents": {"add_generation_prompt": True, "documents": [
        {"title": "On tea", "text": "Tea is hot."},
        {"title": "On ice", "text": "Ice isn't.", "snippet": "cold"}],
        "date_string": "01 Jan 2025", "tools_in_user_message": False},
}
PLAIN_CASES = {"user", "system_turns", "ends_with_assistant", "unicode"}
FEW_CASES = {"system_turns", "thinking"}
TOOL_CASES = {"user", "system", "turns", "tool_call", "tool_call_then_more", "two_calls", "arguments_as_text"}

TOKENS = {"llama": ("<|begin_of_text|>", "<|eot_id|>"),
          "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
          "gemma": ("<bos>", "<eos>")}


def variables_of(conversation, extra):
    """As apply_chat_template passes them: tools and documents are always there."""
    variables = {"messages": CONVERSATIONS[conversation], "tools": None, "documents": None}
    variables.update(EXTRA[extra])
    return variables


def cases():
    for conversation in CONVERSATIONS:
        for extra in EXTRA:
            if extra == "plain" and conversation not in PLAIN_CASES:
                continue
            if extra == "tools" and conversation not in TOOL_CASES:
                continue
            if extra in {"no_thinking", "documents", "empty_tools"} and conversation not in FEW_CASES:
                continue
            yield conversation, extra


def main():
    results = []
    for path in sorted(FOLDER.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        bos, eos = next((t for family, t in TOKENS.items() if path.name.startswith(family)), ("<s>", "</s>"))
        for conversation, extra in cases():
            variables = dict(variables_of(conversation, extra), bos_token=bos, eos_token=eos)
            kind, text = hf_environment.render(source, variables)
            results.append({"template": path.stem, "conversation": conversation, "extra": extra,
                            "bos": bos, "eos": eos, kind: text})
    expected = {"clock": hf_environment.CLOCK.strftime("%Y-%m-%d %H:%M:%S"), "conversations": CONVERSATIONS,
                "extra": EXTRA, "cases": results}
    text = json.dumps(expected, ensure_ascii=False, indent=0)
    (FOLDER / "expected.json").write_text(text + "\n", encoding="utf-8")
    errors = sum("error" in r for r in results)
    print(f"{len(results)} cases of {len(list(FOLDER.glob('*.jinja')))} templates, {errors} of them errors")


if __name__ == "__main__":
    main()
