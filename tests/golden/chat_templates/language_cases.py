"""The cases of language.py. Expressions are wrapped in {{ }}."""

VARIABLES = {
    "s": "Hello World", "empty": "", "uni": "Grüße, 你好! ǆ ß é", "n": 42,
    "neg": -7, "zero": 0, "f": 3.75, "big": 2.5e20,
    "small": 1e-7, "t": True, "no": False, "nil": None, "nums": [3, 1, 2], "words": ["b", "A", "c", "B"],
    "d": {"b": 1, "a": [1, 2], "items": "x", "z": {"deep": ["q", {"r": 5}]}}, "emptyd": {}, "emptyl": [],
    "users": [{"name": "Ann", "age": 31, "city": "Bern", "active": True},
              {"name": "bob", "age": 25, "city": "Rome", "active": False},
              {"name": "Cy", "age": 31, "city": "bern", "active": True, "tags": ["x", "y"]}],
    "text": "one\n two\n\nthree\r\nfour ", "spaced": " \t pad \n", "pairs": [["k", 1], ["l", 2]],
    "html": "<a href=\"x\">'&'</a>", "mixed": [1, "two", 3.0, None, True, [4], {"five": 5}],
    "mapping": {"B": 2, "a": 3, "C": 1}, "tabs": "a\tb", "quote": "it's", "both": "it's \"x\"",
    "control": "\u0001\u007f\u00ad\u200b\ud7ff\ufeff\U0001f600",
}

ARITHMETIC = """
1 + 2 | 7 - 10 | 6 * 7 | 7 / 2 | 8 / 2 | 7 // 2 | -7 // 2 | 7 // -2 | 7 % 3 | -7 % 3 | 7 % -3 | 7.5 // 2
-7.5 // 2 | 7.5 % 2 | -7.5 % 2 | 7.5 % -2 | 2 ** 10 | 2 ** -1 | 2 ** 0.5 | (-2) ** 3 | -2 ** 2 | 2 ** 3 ** 2
0 ** 0 | 0.0 ** 0 | 1 / 0 | 1 // 0 | 1 % 0 | 1.0 / 0 | 1.0 // 0 | 1.0 % 0 | 0 ** -1 | 1 + 2.5 | 1 - 0.1
0.1 + 0.2 | 1e16 | 1e15 | 123456789012345680.0 | 1e22 | 1e-4 | 1e-5 | 0.0001 | 100000.0 | 1.5e300 * 1e10
1e308 * 10 | -1e308 * 10 | 5 - -3 | - 5 | + 5 | --5 | -n | +n | -f | -t | +t | -nil | -s | +s | n + t
t + t | t * 3 | n / t | 1_000 + 1 | 0x1f | 0b101 | 0o17 | 1.5e3 | 1E2 | 3.14_15 | 12_3.5 | 0 | 00 | 0.5
s + "x" | s + 1 | 1 + s | s + nil | s * 2 | 2 * s | s * 0 | s * -1 | s * 1.5 | nums + [4] | nums + (4,)
nums * 2 | (1,) * 2 | nums + s | s - "o" | s / 2 | nil + 1 | {} + {} | n ~ s | s ~ nil ~ t | 1 ~ 2 + 3
"a" ~ 1.0 ~ [1] | missing ~ "x" | missing + 1 | 1 + missing | s + missing | missing * 2 | missing / 2
missing - 1 | -missing | missing ** 2 | 9007199254740993 + 0 | 9223372036854775807 | 9223372036854775806 + 1
-9223372036854775807 | 9223372036854775807 // -1 | 4611686018427387904 * 1 | 10 // 3 * 3 + 10 % 3
2 * 3 % 4 | 2 + 3 * 4 - 5 | (2 + 3) * 4 | 7 // 0.5 | 1e300 * 1e300 - 1e300 * 1e300 | -0.0 | 0.0 * -1
-0.0 + 0 | 3.0 | 3.10 | 1/3 | 2/3 | 10/4 | 1e100 | 1e23 | 5e-324 | 9007199254740993 / 1 | 0.1 + 0.7
4.35 * 100 | 1.1 + 2.2 | -5 // 3.0 | 5.0 // -3 | 6.0 % 3 | -6.0 % 3 | n // 5 * 5 | big | small | -small | f
12345678.9 | 0.00012 | 1.0e-10 | "%s" % 5 | "%d items" % 3 | "%s and %s" % ("a", "b") | "%5.2f|" % f
"%-6d|" % n | "%06.2f" % f | "%+d" % n | "%x %X %o" % (255, 255, 8) | "%#x" % 255 | "%e" % 12345.678
"%g" % 0.00001 | "%g" % 100000 | "%g" % 1000000 | "%%" % () | "%r" % "a" | "%c" % "z" | "%c" % 65
"%s" % nil | "%s" % nums | "%s %s" % nums | "%(a)s" % d | "%(b)d" % d | "%(nope)s" % d | "%d" % "x"
"%d" % 3.99 | "%s" % () | "%s %s" % ("a",) | "abc" % 1 | "abc" % () | "%5s|" % "ab" | "%-5s|" % "ab"
"%.2s" % "abc" | "%*d" % (5, 3) | "%s" % missing | "%y" % 1 | "%" % 1 | "% d" % 5 | "%i" % 7 | "%.3d" % 5
"%s" % {"a": 1} | "abc" % [1] | "%.0f" % 2.5 | "%.0f" % 3.5 | "%G" % 1e-10 | "%F" % 1.5 | "%05d" % -42
"%5.1f|%-8s|" % (2.25, "x") | "%s" % (1,) | "%s" % ((1, 2),)
"""

COMPARISONS = """
1 < 2 | 1 < 2 < 3 | 1 < 3 < 2 | 3 > 2 >= 2 | 1 == 1.0 | 1 == true | 0 == false | "a" == "a" | "a" != "b"
"a" < "b" | "B" < "a" | "a" < "aa" | nums == [3, 1, 2] | nums < [3, 2] | (1, 2) < (1, 3) | (1, 2) == [1, 2]
d == d | emptyd == {} | {"a": 1, "b": 2} == {"b": 2, "a": 1} | nil == none | nil == false
missing == missing2 | missing == none | missing == "" | missing != 1 | missing < 1 | 1 < missing | nil < 1
"a" < 1 | 1 < "a" | nums < 1 | d < d | [1, "a"] < [1, 2] | [1, "a"] < [2, 2] | 1 in nums | 5 in nums
5 not in nums | "lo" in s | "xx" in s | "" in s | 1 in s | "b" in d | "nope" in d | 1 in d | [1] in d
"a" in missing | missing in nums | missing in s | 1 in 5 | "a" in none | "k" in pairs | ["k", 1] in pairs
"a" in ("a", "b") | 2 in range(5) | 5 in range(5) | 2.0 in nums | true in nums | not 1 in nums | not true
not "" | not missing | not nums | t and n | no and n | t or n | no or n | nil or "x" | "" or 0
1 and 2 and 3 | 1 and 0 and 3 | 0 or "" or nil | not t or t | not (t and no) | t and not no | 1 if t else 2
1 if no else 2 | 1 if no | (1 if no) is undefined | 1 if t else 2 if t else 3 | 1 if no else 2 if no else 3
"a" if missing else "b" | (1 if t else 2) + 1 | 1 < 2 == true | 1 == 1 == 1 | 3 in nums and 9 not in nums
"a" in "abc" in ["abc"] | 1 in [1, 2] == true | nums == nums | 1.5 < 2
9007199254740993 == 9007199254740992.0 | 9007199254740993 > 9007199254740992.0 | 1e400 > 9223372036854775807
"é" > "z" | "\\ud7ff" < "\\U0001f600" | t == 1 | t < 2 | no < t | (1,) < (1, 2) | [] < [0] | {} == []
"1" == 1
"""

LITERALS = r"""
"a\nb" | 'a\tb' | "q\"q" | 'q\'q' | "back\\slash" | "\x41\u00e9\U0001f600" | "\101\0601" | "\q"
"a" "b" 'c' | "é\n" | "\é" | "\你" | "tab	raw" | 'multi\
line' | [] | [1, 2, ] | [1, [2, [3]]] | () | (1,) | (1, 2) | 1, 2 | 1, | {} | {"a": 1, "b": [2]} | {"a": 1,}
{1: 2, "x": none, 1.5: true} | {"a": 1, "a": 2} | {1: "a", 1.0: "b", true: "c"} | {(1, 2): 3} | {[1]: 2}
{{}: 1} | true | True | false | False | none | None | nil | t | no | nums | d | words | mixed | emptyd
emptyl | users[2] | uni | [uni] | [quote] | [both] | [control] | [tabs, "\\"] | ["\r\n\0\x7f"]
[1.0, 1e20, 1e-9, -0.0] | [true, none] | [missing] | [(1,), ()] | {"k": "v'"} | ["'"] | ["\""] | "" | ' '
[s|safe] | {"a": {"b": {"c": [1, {"d": 2}]}}} | [1,,2] | [,] | (,) | {"a"} | {"a": } | {: 1} | [1 2] | "a
'a" | 1.2.3 | 1..2 | a b | @ | $x | s! | s ? 1 : 2 | !t | t && no | {,}
"""

ACCESS = """
d.b | d["b"] | d.a[0] | d["a"][1] | d.a.0 | d.a.1 | d.a[-1] | d.a[5] | d.a[5] is defined | d.nope
d.nope is undefined | d["nope"] | d.nope.more | d["nope"]["more"] | missing | missing.x | missing["x"]
missing[0] | d.items | d["items"] | d.items() | d.get("b") | d.get("nope") | d.get("nope", 5) | d.get()
d.get("a", 1, 2) | d.keys() | d.values() | d.z.deep[1].r | d.z.deep[1]["r"] | d[nil] | d[1] | d[[1]] | d[{}]
s[0] | s[-1] | s[20] | s[20] is defined | s["x"] | s["upper"] is defined | s["upper"]() | uni[2] | uni[7]
uni[-1] | s[true] | s[1.0] | s[nil] | nums[1] | nums[-4] | nums["x"] | nums[1.0] | nums.first | n.x | n[0]
nil.x | nil[0] | t.x | f.x | s[1:] | s[:3] | s[1:4] | s[-3:] | s[:-3] | s[::2] | s[::-1] | s[5:2]
s[5:2:-1] | s[100:] | s[-100:3] | s[:] | s[1:2:3] | s[::0] | s[nil:2] | s["a":] | s[1.0:] | uni[1:9]
uni[::-1] | uni[7:9] | uni[::3] | nums[1:] | nums[::-1] | nums[:1] | (1, 2, 3)[1:] | (1, 2, 3)[0]
range(10)[2:5] | range(10)[::3] | range(10)[5] | range(5)[-1] | range(3)[9] | d[1:] | missing[1:] | n[1:]
nil[:] | d[1, 2] | d[1:2, 3] | {(1, 2): 5}[1, 2] | [1, 2][0] | "abc"[1] | {"a": 1}.a | {"a": 1}["a"]
[[1, 2], [3]][0][1] | (s)[0] | s[0][0][0] | d.a.append(1) | d.a.append | d.a.append is defined | d.a.pop()
nums.sort() | nums.reverse() | nums.insert(0, 1) | nums.extend([1]) | nums.remove(1) | nums.clear()
d.update({}) | d.pop("b") | d.setdefault("q", 1) | d.clear() | d.popitem() | d["update"] is defined
nums.index(1) | nums.index(9) | nums.index(2, 1) | nums.count(3) | nums.copy() | (1, 2, 1).count(1)
(1, 2).index(2) | (1, 2).append | d.copy() | d._private | s._x | nums._x is defined | 3.0.is_integer()
f.is_integer() | users[0].name | users[0]["name"] | users.0.name | users[-1].tags[1] | s.upper is callable
s.nope() | s() | n() | nil() | missing() | d.b() | s.upper(1) | [].append(1) | d.keys | s.upper.x | range.x
d.z["deep"][0] | d["z"].deep | d.z.nope | ({"get": 5}).get | ({"get": 5})["get"] | ({"keys": 1}).keys()
"""

METHODS = r"""
s.upper() | s.lower() | s.title() | s.capitalize() | s.swapcase() | uni.upper() | uni.lower() | uni.title()
uni.capitalize() | uni.swapcase() | "ΑΣ ΣΑΣ.".lower() | "ﬁn İ ŉ".upper() | "İ".lower() | "ǅ".lower()
"they're bill's".title() | "ΌΣΟΣ" | "ὈΔΥΣΣΕΎΣ".title() | spaced.strip() | spaced.lstrip() | spaced.rstrip()
"xxaxx".strip("x") | "xyaxy".strip("yx") | "xxaxx".lstrip("x") | "xxaxx".rstrip("x") | "a".strip(none)
"a".strip(1) | "\u3000a\u00a0".strip() | "éaé".strip("é") | "".strip() | "   ".strip()
"a b".strip(" b", 1) | "abc".strip("") | "a,b,c".split(",") | "a,b,c".split(",", 1) | "a b  c".split()
" a  b ".split(none, 1) | "a b c".split(maxsplit=1) | "a,b".split(sep=",") | "".split() | "".split(",")
"abc".split("") | "a--b--c".split("--") | "aaa".split("a") | "a,b,c".rsplit(",", 1)
" a b  c ".rsplit(none, 1) | "aaa".rsplit("aa", 1) | "a b".rsplit() | "a,b".split(1) | "a,b".split(",", -1)
"a,b".split(",", 0) | " a b ".split(none, 0) | text.splitlines() | text.splitlines(true)
"a\x0bb\x85c\u2028d".splitlines() | "".splitlines() | "\n".splitlines() | "a\r\n\r\nb".splitlines()
"k=v=w".partition("=") | "k=v=w".rpartition("=") | "kv".partition("=") | "kv".rpartition("=")
"a".partition("") | s.startswith("Hell") | s.startswith("x") | s.startswith(("x", "H"))
s.startswith("World", 6) | s.startswith("", 50) | s.startswith("l", 2, 3) | s.startswith(1)
s.endswith("ld") | s.endswith(("a", "d")) | s.endswith("Hello", 0, 5) | s.startswith(["H"])
s.startswith(("x", 1)) | s.startswith(("H", 1)) | s.find("o") | s.find("o", 5) | s.find("o", 5, 6)
s.find("zz") | s.rfind("o") | s.find("") | s.find("", 99) | uni.find("好") | uni.rfind("é") | s.index("W")
s.index("zz") | s.rindex("l") | s.count("l") | s.count("") | s.count("l", 4) | "aaaa".count("aa")
uni.count("ß") | s.find(1) | s.find("l", -3) | s.find("l", none, 3) | "abab".rfind("ab")
"abab".rfind("", 1, 2) | s.replace("o", "0") | s.replace("o", "0", 1) | s.replace("", "-")
s.replace("", "-", 3) | "".replace("", "x") | s.replace("l", "") | s.replace("x", "y") | s.replace("o")
s.replace(1, 2) | "aaa".replace("aa", "b") | uni.replace("ü", "ue") | s.replace("o", "0", -1)
s.replace("o", "0", 0) | "éé".replace("", "|") | ", ".join(words) | ", ".join(nums) | "".join("abc")
"-".join([]) | "-".join(missing) | "-".join(5) | "-".join(["a"]) | "-".join({"x": 1, "y": 2})
"-".join(words|map("upper")) | s.join(1, 2) | "ab".center(6) | "ab".center(7) | "abc".center(6)
"abc".center(8, "*") | "ab".ljust(5) | "ab".ljust(5, ".") | "ab".rjust(5) | "ab".rjust(5, "é")
"ab".center(1) | "ab".center(5, "xx") | "-5".zfill(5) | "+5".zfill(4) | "5".zfill(3) | "abc".zfill(2)
"".zfill(2) | "ab".center("x") | "prefix-x".removeprefix("prefix-") | "x".removeprefix("y")
"x.txt".removesuffix(".txt") | "x".removesuffix("") | "abc".isalpha() | "abc1".isalpha() | "abc1".isalnum()
"12".isdigit() | "1²".isdigit() | "1²".isdecimal() | "½".isnumeric() | "½".isdigit() | " \t".isspace()
"".isspace() | "".isalpha() | "ab".islower() | "aB".islower() | "A1".isupper() | "1".isupper()
"Hello World".istitle() | "Hello world".istitle() | "abc".isascii() | uni.isascii() | "你".isalpha()
"a b".isprintable() | "\n".isprintable() | "".isprintable() | "a_1".isidentifier() | "1a".isidentifier()
"".isidentifier() | "{} {}".format(1, "b") | "{0} {1} {0}".format("a", "b") | "{x}".format(x=5)
"{x[a]} {x.b}".format(x={"a": 1, "b": 2}) | "{:>5}|{:<5}|{:^5}".format(1, 2, 3) | "{:05d}".format(42)
"{:.2f}".format(3.14159) | "{:,}".format(1234567) | "{:_}".format(1234567)
"{:x} {:X} {:#x} {:b} {:o}".format(255, 255, 255, 5, 8) | "{:e}".format(12345.678) | "{:g}".format(0.0001)
"{:%}".format(0.25) | "{:.1%}".format(0.256) | "{!r}".format("a") | "{!s:>4}".format(1) | "{{}}".format()
"{{{}}}".format(1) | "{}".format() | "{".format() | "}".format() | "{a}".format() | "{:+}".format(5)
"{: }".format(5) | "{:+.1f}".format(-2.25) | "{:*^9}".format("mid") | "{:.2}".format("abcdef")
"{:10.3}|".format("abcdef") | "{:d}".format("x") | "{:s}".format(1) | "{:5}|".format("a")
"{:5}|".format(1) | "{:5}|".format(true) | "{}".format(none) | "{:>5}".format(none) | "{0.real}".format("x")
"{:{}}".format(1, 5) | "{} {1}".format(1, 2) | "{1} {}".format(1, 2) | "{:.3}".format(1234.5)
"{:.3}".format(0.5) | "{:.6}".format(12.0) | "{:,.2f}".format(1234567.891) | "{:010,d}".format(1234567)
"{:=+6d}".format(42) | "{[0]}".format([7]) | "{:é>5}".format("a") | "{:c}".format(65)
"{:c}|{:5c}|".format(233, 65) | "{:05}".format("a") | "{:x<05}".format(3) | "{0[0]}".format([7])
"{0.x} {}".format({"x": 1}, 2) | "{a}{b}".format_map({"a": 1, "b": 2}) | "{:n}".format(12)
"{:.0f}".format(0.5) | "{:08.3f}".format(-3.14159) | "{:<08}".format(5) | "{:}".format([1])
"{:5}".format([1])
"""

FILTERS = r"""
s|upper | s|lower | 5|upper | nil|upper | missing|upper | nums|upper | "hELLO wORLD"|title
"foo-bar (baz) [qux] {x} <y>"|title | "it's élan"|title | "a\u00a0b"|title | "hELLO"|capitalize
5|capitalize | spaced|trim | "xxaxx"|trim("x") | "xxaxx"|trim(chars="x") | 5|trim | nil|trim | missing|trim
"a"|trim(1) | s|length | nums|length | d|length | d|count | missing|length | 5|length | nil|length
range(4)|length | nums|map("string")|length | uni|length | ""|length | d.items()|length | t|length
nums|join | nums|join(", ") | nums|join(d="-") | users|join(", ", attribute="name") | words|join(1)
missing|join | 5|join | "abc"|join("-") | d|join("-") | mixed|join("|") | [missing, 1]|join("-")
nums|join(none) | users|join(attribute="tags.0") | missing|default("x") | missing|d("x") | missing|default
nil|default("x") | nil|default("x", true) | ""|default("x", true) | ""|default("x") | 0|d("x", boolean=true)
missing.x|default("y") | d.nope|default(d.b) | s|default("x") | missing|default(default_value=3)
missing|default(missing2) | s|replace("o", "0") | s|replace("o", "0", 1) | 5|replace("5", "6")
s|replace("o", 0) | nums|replace("1", "x") | s|replace("l") | nil|replace("N", "n") | s|replace("", "_")
s|replace(old="o", new="0") | s|replace("o", "0", none) | missing|replace("a", "b") | d|tojson | nums|tojson
s|tojson | uni|tojson | uni|tojson(ensure_ascii=true) | control|tojson | control|tojson(ensure_ascii=true)
both|tojson | nil|tojson | t|tojson | f|tojson | big|tojson | small|tojson | n|tojson | d|tojson(indent=2)
d|tojson(indent=0) | users|tojson(indent=4) | d|tojson(indent="--") | d|tojson(indent=none) | mixed|tojson
(1, 2)|tojson | {}|tojson | []|tojson | {}|tojson(indent=2) | []|tojson(indent=2)
[[], {}]|tojson(indent=1) | {1: 2, 1.5: 3, none: 4, true: 5}|tojson | {(1, 2): 3}|tojson | missing|tojson
[missing]|tojson | d|tojson(separators=(",", ":")) | d|tojson(separators=[";", "="], indent=1)
mapping|tojson(sort_keys=true) | {"b": 1, 2: 3}|tojson(sort_keys=true) | html|tojson | 1e400|tojson
-1e400|tojson | (1e400 - 1e400)|tojson | range(3)|tojson | d.items()|tojson | nums|map("string")|tojson
"\x7f\u2028/"|tojson | "\ud7ff\U0001f600"|tojson(ensure_ascii=true) | namespace(a=1)|tojson | s|safe|tojson
d|tojson(3) | d|tojson(false, 3) | nums|tojson(indent=-1) | nums|tojson(indent=true) | d|list | s|list
uni|list | nums|list | 5|list | missing|list | d.items()|list | d|items|list | missing|items|list
nums|items|list | emptyd|items|list | range(3)|list | mapping|dictsort | mapping|dictsort(true)
mapping|dictsort(false, "value") | mapping|dictsort(by="value", reverse=true) | mapping|dictsort(by="nope")
missing|dictsort | nums|dictsort | {"a": 1, 2: 3}|dictsort | 5|string | nil|string | nums|string | s|string
missing|string | 1.0|string | "5"|int | "5.7"|int | "x"|int | "x"|int(7) | "x"|int(default=-1)
"0x1f"|int(0, 16) | "1f"|int(base=16) | "0b11"|int(0, 2) | "12"|int(0, 8) | " 12 "|int | "1_000"|int
"_1"|int | "1__0"|int | ""|int | "-5"|int | "+5"|int | "--5"|int | 5.9|int | -5.9|int | true|int | nil|int
nums|int | missing|int | "1e3"|int | "inf"|int | "nan"|int | 1e400|int | (1e400 - 1e400)|int | "0x1f"|int
"0x1f"|int(base=0) | "012"|int(base=0) | "z"|int(0, 36) | "5"|int(0, 99) | "5"|int(0, "a") | "12.0"|int
"1.5e2"|int | "2.5"|float | "x"|float | "x"|float(1.5) | 5|float | "1e3"|float | "inf"|float
"-Infinity"|float | "nan"|float | "NaN"|float | " 2.5 "|float | "1_0.5"|float | "1_.5"|float | ""|float
"."|float | "5."|float | ".5"|float | "+1.5"|float | "0x1"|float | nil|float | nil|float(2) | nums|float
missing|float | t|float | "1e"|float | "1e400"|float | "1e-400"|float | "infin"|float | 42.55|round
42.5|round | 43.5|round | 42.55|round(1) | 42.55|round(1, "floor") | 42.55|round(1, "ceil")
42.1|round(method="ceil") | 1234.5|round(-2) | 1250|round(-2) | 1350|round(-2) | 42|round | 42|round(2)
42|round(0, "ceil") | -42.5|round | "x"|round | 2.675|round(2) | 1e300|round | 0.5|round | 1.5|round
5.5|round(0, "nope") | 42.4|round|int | 1234|round(-5) | 5000|round(-4) | 15000|round(-4)
12345.678|round(-2, "floor") | true|round | nil|round | missing|round | 0.05|round(1) | -2.5|round
150.0|round(-2) | 250.0|round(-2) | 49.9|round(-2) | 50.1|round(-2) | 50.0|round(-2) | 1e16|round(2)
42.55|round(1)|string | 7|round(1, "floor") | -5|abs | 5.5|abs | neg|abs | "x"|abs | nil|abs | true|abs
missing|abs | (-1.5)|abs | -1|abs | nums|first | nums|last | []|first | []|last | []|first is undefined
s|first | s|last | d|first | d|last | missing|first | missing|last | 5|first | 5|last | range(3)|last
range(3)|first | nums|map("string")|first | nums|map("string")|last | d.items()|first | d.values()|last
uni|last | nums|sort | nums|sort(reverse=true) | nums|sort(true) | words|sort
words|sort(case_sensitive=true) | words|sort(false, true)
users|sort(attribute="age")|map(attribute="name")|list
users|sort(attribute="age,name")|map(attribute="name")|list
users|sort(attribute="city", reverse=true)|map(attribute="name")|list | [3, "a"]|sort | [none, 1]|sort
missing|sort | 5|sort | "hello"|sort | d|sort | [[2, 1], [1, 2]]|sort | users|sort
users|sort(attribute="nope") | [1]|sort | [true, 0, 2, -1.5]|sort | users|sort(attribute="tags")
mapping.items()|sort | nums|unique|list | [1, 1.0, true, 2]|unique|list | ["a", "A", "b"]|unique|list
["a", "A", "b"]|unique(true)|list | users|unique(attribute="age")|map(attribute="name")|list
users|unique(attribute="city")|map(attribute="city")|list | [[1], [1]]|unique|list | "banana"|unique|join
missing|unique|list | nums|min | nums|max | words|min | words|max | words|max(case_sensitive=true) | []|min
[]|max is undefined | users|max(attribute="age") == users[0] | users|min(attribute="age") == users[1]
[1, "a"]|min | "hello"|max | missing|max | 5|min | nums|sum | users|sum(attribute="age")
nums|sum(start=10) | [0.1, 0.2]|sum | []|sum | words|sum | [[1], [2]]|sum(start=[]) | missing|sum
["a"]|sum(start="") | [1, none]|sum | nums|sum("x") | nums|reverse|list | s|reverse | uni|reverse
d|reverse|list | missing|reverse|list | 5|reverse | range(3)|reverse|list | nums|map("string")|reverse
(1, 2)|reverse|list | ""|reverse | d.items()|reverse|list | nums|map("string")|list
words|map("upper")|join | users|map(attribute="name")|list | users|map(attribute="tags", default="-")|list
users|map(attribute="tags.0")|list | users|map(attribute="tags.0", default="?")|list | nums|map("nope")|list
[]|map("nope")|list | nums|map|list | []|map|list | nums|map("round", 1)|list
["a b"]|map("replace", " ", "_")|list | ["x"]|map("default", d="y")|list | missing|map("upper")|list
5|map("upper")|list | s|map("upper")|join | pairs|map("first")|list | pairs|map(attribute=0)|list
pairs|map(attribute="1")|list | users|map(attribute="name", foo=1)|list | nums|map(5)|list
nil|map("upper")|list | d|map("upper")|list | [d]|map(attribute="z.deep.1.r")|list
words|map("upper")|map("lower")|sort | users|map(attribute=none)|list == users | nums|select("odd")|list
nums|select|list | [0, 1, "", "a"]|select|list | [0, 1, "", "a"]|reject|list | nums|reject("odd")|list
nums|select("gt", 1)|list | nums|select(">", 1)|list | nums|select("in", [1, 2])|list
words|select("equalto", "b")|list | nums|select("nope")|list | nums|select("divisibleby", 3)|list
users|selectattr("active")|map(attribute="name")|list
users|rejectattr("active")|map(attribute="name")|list
users|selectattr("age", "equalto", 31)|map(attribute="name")|list
users|selectattr("age", ">", 30)|map(attribute="name")|list
users|rejectattr("tags", "defined")|map(attribute="name")|list
users|selectattr("tags", "defined")|list|length | users|selectattr("name", "in", ["Ann"])|list|length
users|selectattr|list | []|selectattr|list | users|selectattr("city", "eq", "Bern")|first == users[0]
missing|select|list | 5|select|list | users|selectattr("nope.x")|list
users|selectattr("name", "none")|list | nums|select("defined")|list | nums|select("eq", 1)|first
words|select("lower")|list | words|reject("in", "abc")|list | nums|select("even", 1)|list | nil|select|list
nums|batch(2)|list | nums|batch(2, 0)|list | nums|batch(5)|list | []|batch(2)|list | nums|batch(0)|list
nums|batch(1)|list | "abcde"|batch(2)|list | nums|batch(2, fill_with="x")|list | nums|slice(2)|list
nums|slice(2, "x")|list | nums|slice(5)|list | nums|slice(0)|list | range(7)|slice(3)|list
range(7)|slice(3, "-")|list | nums|batch|list | missing|batch(2)|list | nums|slice(-1)|list
nums|batch("x")|list | users|groupby("age")|list|length | users|groupby("city")|map("first")|list
users|groupby("city")|map("last")|map("length")|list | users|groupby("age")|map(attribute="grouper")|list
(users|groupby("age"))[0].list|length | users|groupby("city", case_sensitive=true)|map("first")|list
users|groupby("tags", default="")|length | [{"a": 1}, {"a": 2}, {"a": 1}]|groupby("a") | []|groupby("a")
users|groupby("name.0")|map("first")|list | users|groupby | text|indent | text|indent(2)
text|indent(2, true) | text|indent(2, true, true) | text|indent(blank=true) | text|indent("> ")
text|indent(width=1, first=true) | ""|indent | "a"|indent | 5|indent | nil|indent | missing|indent
"a\n"|indent | "a\n\n"|indent(2) | "\na"|indent | text|indent(-1) | text|indent(1.5) | "a\x0bb"|indent(2)
"a\nb"|safe|indent | html|e | html|escape | 5|e | nil|e | html|e|e | html|forceescape | html|e|forceescape
html|safe | html|safe|e | (html|e) + "<" | "<" + (html|e) | (html|e) ~ "<" | ("<"|safe) + "<"
("<"|e).replace("<", ">") | ("a"|safe).upper() + "<" | "<%s>"|safe % "<b>" | ("<{}>"|safe).format("<")
("<%s>"|safe)|format("<") | [("<"|e)] | missing|e | ["<"|e, "<"]|join | ("<"|e)|upper
("-"|safe).join(["<", "a"]) | ("<"|e) == "&lt;" | ("<"|e) is escaped | "x" is escaped | ("a"|e) * 2 + "<"
("a"|e)[0] + "<" | ("<"|safe)|replace("<", "&") | ("<"|safe)|string is escaped | ("a"|e)|lower is escaped
("a"|e)|title is escaped | "%s|%s"|format("a", 1) | "%(x)s"|format(x=1) | "%s"|format
"%s %(x)s"|format("a", x=1) | "plain"|format | "%d"|format("x") | 5|format(1) | "x"|center(7) | "x"|center
"x"|center(width=3) | "ab"|center(1) | "foo bar baz qux"|truncate(9) | "foo bar baz qux"|truncate(9, true)
"foo bar baz qux"|truncate(11) | "foo bar baz qux"|truncate(11, false, "...", 0)
"foo bar baz qux"|truncate(9, end="!") | "foobarbazqux"|truncate(3, leeway=0) | s|truncate | "x"|truncate(2)
"äöüäöüäöüäöü"|truncate(5, true, "…", 0) | 5|truncate | nums|truncate(3) | "a b  c"|wordcount | ""|wordcount
uni|wordcount | "it's a_b-c"|wordcount | 5|wordcount | "a b/c?d=é&"|urlencode
{"a b": 1, "c": "ä&"}|urlencode | [["x", 1]]|urlencode | 5|urlencode | nil|urlencode | [1]|urlencode
1|filesizeformat | 100|filesizeformat | 1000|filesizeformat | 1024|filesizeformat(true)
123456789|filesizeformat | 123456789|filesizeformat(binary=true) | "5e9"|filesizeformat | "x"|filesizeformat
1e30|filesizeformat | 0|filesizeformat | 999999|filesizeformat | -5|filesizeformat | d|attr("b")
d|attr("items") is callable | s|attr("upper") is callable | s|attr("nope") | s|attr("nope") is undefined
d|attr("nope") is defined | missing|attr("x") | d|attr | namespace(a=5)|attr("a")
nums|attr("append") is defined | 5|attr("x") is defined | s|attr(1) | s|nope | s|upper|nope
(s|nope) if no else 1 | s|upper(1) | s|length(1) | nums|first(1) | s|upper|lower|title | s | upper
s|join(",")|length | -5|abs + 1 | 2 * -3|abs | "a" ~ "b"|upper | ("a" ~ "b")|upper | "a" + "b"|upper
n|string + "x" | not s|length | nums|sum / 2 | s|upper in ["HELLO WORLD"] | s|length > 5 | s|length is odd
nums|length == 3 and t
"""

TESTS = r"""
n is defined | missing is defined | missing is undefined | d.nope is undefined | missing.x is defined
n is not defined | not n is defined | nil is none | n is none | missing is none | s is string | n is string
(s|safe) is string | missing is string | n is number | f is number | t is number | s is number
n is integer | t is integer | f is integer | 3.0 is integer | f is float | n is float | t is boolean
1 is boolean | t is true | 1 is true | no is false | 0 is false | nil is false | d is mapping
nums is mapping | namespace() is mapping | missing is mapping | nums is sequence | s is sequence
d is sequence | (1,) is sequence | range(3) is sequence | n is sequence | missing is sequence
d.keys() is sequence | nums|map("upper") is sequence | nil is sequence | nums is iterable | s is iterable
d is iterable | n is iterable | missing is iterable | nums|map("upper") is iterable | d.items() is iterable
nil is iterable | namespace() is iterable | range is callable | s.upper is callable | s is callable
missing is callable | namespace is callable | n is callable | 3 is odd | 4 is odd | 4 is even | 3 is even
-3 is odd | 2.0 is even | 2.5 is odd | s is odd | nil is even | t is odd | missing is even
9 is divisibleby 3 | 9 is divisibleby(2) | 9 is divisibleby 0 | 9 is divisibleby | 5 is eq 5
5 is equalto 6 | 5 is ne 5 | 5 is gt 4 | 5 is greaterthan 5 | 5 is ge 5 | 5 is lt 6 | 5 is lessthan 5
5 is le 5 | 5 is eq(5) | 5 is eq | 5 is sameas 5 | nil is sameas none | nums is sameas nums
[1] is sameas [1] | t is sameas true | 1 is sameas true | "a" is lt "b" | "a" is lt 1 | "abc" is lower
"aBc" is lower | "ABC" is upper | "1" is upper | 5 is upper | "" is lower | 1 is in nums | 9 is in nums
9 is not in nums | "H" is in s | 1 is in 5 | "upper" is filter | "nope" is filter | 5 is filter
"odd" is test | "nope" is test | n is nope | n is nope if no else 1 | n is in [1, 42] and t
s is string and n is number | n is defined and missing is not defined or no | (n is odd) == false
n is even == t | n is divisibleby 2 and t | 1 is odd is even | not 1 is odd | n is not none | n is not odd
1 + 2 is odd | [1] is eq [1] | {"a": 1} is eq {"a": 1} | "a" is eq "a" ~ "" | n is divisibleby(by=2)
n is string or t | n is number if t else 0 | users[0].name is string
users[0].name is defined and users[0].name | n is number is string | n is (odd) | 5 is eq -5
"""

CALLS = r"""
range(5)|list | range(1, 5)|list | range(5, 1, -2)|list | range(0)|list | range(5) | range(1, 10, 2)
range(-3)|list | range(1, 2, 0) | range("a") | range(1.5) | range() | range(100000)|length | range(100001)
range(10**12) | range(0, 10**18, 10**14)|length | range(true)|list | range(start=1) | range(1, 2, 3, 4)
range(5)|sum | range(3) == range(0, 3) | range(0) == range(5, 5) | -(9223372036854775807) in range(3)
dict() | dict(a=1, b=2) | dict({"a": 1}, b=2) | dict([["a", 1]]) | dict([("a", 1), ("b", 2)])
dict([[1, 2, 3]]) | dict(5) | dict(a=1).a | dict(**{"x": 1}) | dict({"a": 1}, a=2) | dict({}, {})
dict("ab") | dict(["ab"]) | namespace(a=1).a | namespace(a=1) | namespace({"x": 1}).x | namespace(a=1)["a"]
namespace().nope | namespace().nope is defined | namespace(a=1).nope.x | namespace([["k", 2]]).k
namespace(1) | namespace(a=1)._a | [namespace(a=[1])] | raise_exception("Stop here!")
raise_exception("a" ~ n) | raise_exception() | raise_exception(n) | raise_exception("two\nlines")
strftime_now("%Y-%m-%d") | strftime_now("%d %b %Y") | strftime_now("%H:%M:%S %A %B %j %p %y %%")
strftime_now("") | strftime_now() | strftime_now(5) | strftime_now("é %d") | strftime_now("%-d %e %I")
strftime_now("%z%Z|%f") | cycler("a", "b").next() | cycler("a", "b").current | cycler() | joiner()()
joiner(";") is callable | range(*[1, 4])|list | dict(*[{"a": 1}]) | range(*nums)|list
"{}-{}".format(*words[:2]) | "{a}".format(**{"a": 1}) | "{a}".format(**nums) | dict(a=1, **{"a": 2})
dict(a=1, a=2) | range(*5) | s.split(sep="o", maxsplit=1) | s.split("o", sep="o") | s.split("o", nope=1)
s.split("o", 1, 2) | s.split(,) | s.split("o",) | range(1, 5,)|list | range(a for a in b) | s.upper()()
s.upper().lower().title() | (s.upper)() | d.get("b") + 1 | nope() | nope.x() | range(stop) | range(*missing)
"""

EXPRESSIONS = []
for _block in (ARITHMETIC, COMPARISONS, LITERALS, ACCESS, METHODS, FILTERS, TESTS, CALLS):
    # " | " parts the cases (a bare | is the language's own); a backslash at a line's end belongs to its case.
    _joined = _block.strip("\n").replace("\\\n", "\0").replace("\n", " | ").replace("\0", "\\\n")
    for _case in _joined.split(" | "):
        if _case.strip() and _case not in EXPRESSIONS:
            EXPRESSIONS.append(_case)

TEMPLATES = [
    # text and whitespace control
    '',
    'plain',
    'plain\n',
    'plain\n\n',
    'a\r\nb\rc\n',
    '{',
    '{ {',
    '{{ 1 }',
    '{% if',
    '}}',
    '%}',
    '#}',
    "{{ '{{' }}",
    "{{ '}}' }}",
    "{{ '%}' }}",
    '{{',
    '{{}}',
    '{%%}',
    '{{ }}',
    'a {# comment #} b',
    'a{#- comment -#} b',
    'a {#- x #}\nb',
    '{# x #}\nb',
    '  {# x #}\nb',
    '{# {{ 1 }} {% x %} #}y',
    '{# unclosed',
    '{#-#}x',
    '{##}x',
    '{# a #} #}',
    'x {#+ y +#}\nz',
    '{# a\nb -#}  \n c',
    '  {% if t %}\n  yes\n  {% endif %}\nend',
    '  {%+ if t %}\n  yes\n  {%+ endif %}\nend',
    '{% if t +%}\nx{% endif %}',
    'a  {%- if t -%}  b  {%- endif -%}  c',
    'a\n\n{%- if t %}\n\nb{% endif %}',
    '\t{% if t %}x{% endif %}\ny',
    'a {% if t %}b{% endif %}',
    'a\n {% if t %}b{% endif %}\n c',
    '{{ 1 }}\n{{ 2 }}',
    '{{ 1 -}} \n {{- 2 }}',
    '  {{ 1 }}',
    '{%- if t %} x {% endif -%} y',
    'a {{- 1 -}} b',
    '{{-1}}',
    '{{- -1 }}',
    '{{ 1-}}',
    '{{ 1 - }}',
    '{{ 2 -1 }}',
    '{{+1}}',
    '\u3000{%- if t %}x{% endif %}',
    'a\xa0{{- 1 }}',
    ' \u2003{% if t %}x{% endif %}',
    '{% if t %}\r\nx{% endif %}',
    '{% if t %}\n\nx{% endif %}\n\ny',
    'x\n{% set a = 1 %}\n{% set b = 2 %}\n{{ a + b }}\n',
    'x\n  {% set a = 1 %}  {% set b = 2 %}\n  y',
    '{% raw %}{{ x }} {% if %}{% endraw %}',
    '{% raw %}\n a \n{% endraw %}\nb',
    'a {%- raw -%} {{ b }} {%- endraw -%} c',
    '  {% raw %}\nx\n  {% endraw %}\ny',
    '{% raw %}{% endraw %}z',
    '{% raw %}unclosed',
    '{%raw%}{{{%endraw%}',
    '{% raw %} {% raw %} {% endraw %}',
    '{%+ raw %}a{%+ endraw +%}\nb',
    '{% raw %}{# x #}{% endraw %}',
    # if
    '{% if n == 42 %}a{% elif n == 1 %}b{% else %}c{% endif %}',
    '{% if n == 1 %}a{% elif n == 42 %}b{% else %}c{% endif %}',
    '{% if no %}a{% elif no %}b{% elif nil %}c{% else %}d{% endif %}',
    '{% if missing %}a{% endif %}b',
    '{% if t %}',
    '{% if t %}{% else %}{% else %}{% endif %}',
    '{% endif %}',
    '{% if %}{% endif %}',
    '{% if t: %}a{% endif %}',
    '{% if t %}a{% endfor %}',
    '{% if t, no %}a{% endif %}',
    '{% if t %}{% if no %}a{% else %}b{% endif %}{% endif %}',
    '{% elif t %}',
    '{% if t %}{% elif %}{% endif %}',
    '{% if 1 if t else 0 %}a{% endif %}',
    '{% IF t %}{% endif %}',
    # for
    '{% for x in nums %}{{ x }},{% endfor %}',
    '{% for x in [] %}a{% else %}b{% endfor %}',
    '{% for x in nums %}{{ x }}{% else %}b{% endfor %}',
    '{% for x in missing %}a{% else %}b{% endfor %}',
    '{% for x in nil %}a{% endfor %}',
    '{% for x in 5 %}a{% endfor %}',
    '{% for c in uni %}{{ c }}.{% endfor %}',
    '{% for k in d %}{{ k }};{% endfor %}',
    '{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}',
    '{% for k, v in d|dictsort %}{{ k }}{% endfor %}',
    '{% for k, v in d|items %}{{ k }}{% endfor %}',
    '{% for a, b in pairs %}{{ a }}{{ b }}{% endfor %}',
    '{% for a, b in nums %}{% endfor %}',
    '{% for a, b in [[1, 2, 3]] %}{% endfor %}',
    '{% for a, b in [[1]] %}{% endfor %}',
    '{% for (a, b) in pairs %}{{ a }}{% endfor %}',
    '{% for a, (b, c) in [[1, [2, 3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}',
    '{% for a, in [[1]] %}{{ a }}{% endfor %}',
    '{% for x in 1, 2, 3 %}{{ x }}{% endfor %}',
    '{% for x in (1, 2) %}{{ x }}{% endfor %}',
    '{% for x in nums if x > 1 %}{{ x }}{% endfor %}',
    '{% for x in nums if x > 9 %}{{ x }}{% else %}none{% endfor %}',
    ('{% for x in nums %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length '
     '}}{{ loop.revindex }}{{ loop.revindex0 }};{% endfor %}'),
    '{% for x in nums if x != 1 %}{{ loop.index }}/{{ loop.length }}{{ loop.last }};{% endfor %}',
    '{% for x in nums %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}',
    '{% for x in nums %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }};{% endfor %}',
    "{% for x in nums %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    '{% for x in nums %}{{ loop.cycle() }}{% endfor %}',
    '{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }}{% endfor %}',
    '{% for x in nums %}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}',
    '{% for x in nums %}{{ loop }}{% endfor %}',
    '{% for x in nums %}{{ loop.nope }}{% endfor %}',
    '{% for x in nums %}{{ loop.nope.x }}{% endfor %}',
    '{% for x in nums %}{{ loop|length }}{% endfor %}',
    '{% for x in nums %}{{ loop(x) }}{% endfor %}',
    "{% for x in nums %}{{ loop['index'] }}{% endfor %}",
    '{{ loop }}',
    '{{ loop.index }}',
    '{% for x in nums %}{% endfor %}{{ loop is defined }}',
    "{% for x in words|map('upper') %}{{ loop.index }}{{ x }}{{ loop.last }}{{ loop.length }};{% endfor %}",
    "{% for x in words|map('upper') %}{{ loop.revindex }}{{ loop.nextitem }}{% endfor %}",
    '{% for x in nums if loop.index > 1 %}{{ x }}{% endfor %}',
    '{% for x in nums %}{% for y in [x, 9] %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}',
    '{% for x in nums %}{% for y in words if loop.first %}{{ y }}{% endfor %}{% endfor %}',
    ("{% for x in nums %}{% set outer = loop %}{% for y in 'ab' %}{{ outer.index }}{{ loop.index }} {% "
     'endfor %}{% endfor %}'),
    '{% for x in nums %}{% for y in range(loop.index) %}{{ y }}{% endfor %}{% endfor %}',
    '{% for x in nums %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}',
    '{% for x in nums %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}',
    '{% for x in nums %}{% break %}{% else %}e{% endfor %}',
    '{% for x in nums %}{% continue %}{% else %}e{% endfor %}',
    '{% for x in nums %}{% if loop.last %}{% break %}{% endif %}{% else %}e{% endfor %}',
    '{% break %}',
    '{% if t %}{% continue %}{% endif %}',
    ('{% for x in nums %}{% for y in nums %}{% if y == 1 %}{% break %}{% endif %}{{ y }}{% endfor %}{{ '
     'x }}{% endfor %}'),
    ('{% for x in nums %}{% set z %}a{% if loop.first %}{% continue %}{% endif %}b{% endset %}{{ z }}{% '
     'endfor %}'),
    '{% for x in nums %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}',
    '{% for x in nums %}{% filter upper %}a{% break %}{% endfilter %}{% endfor %}z',
    ('{% for x in nums %}{% with a = x %}{% if a == 1 %}{% continue %}{% endif %}{{ a }}{% endwith %}{% '
     'endfor %}'),
    '{% for x in nums %}{% else %}{% break %}{% endfor %}',
    '{% for x in nums %}{{ x }}{% endfor %}{{ x }}',
    '{% set x = 9 %}{% for x in nums %}{{ x }}{% endfor %}{{ x }}',
    '{% for x in nums %}{% set y = x %}{% endfor %}{{ y }}',
    '{% set y = 0 %}{% for x in nums %}{% set y = y + x %}{{ y }},{% endfor %}{{ y }}',
    '{% set ns = namespace(y=0) %}{% for x in nums %}{% set ns.y = ns.y + x %}{% endfor %}{{ ns.y }}',
    "{% for x in nums %}{% if loop.first %}{% set y = 'f' %}{% endif %}{{ y }};{% endfor %}",
    '{% for s in nums %}{{ s }}{% endfor %}{{ s }}',
    '{% for x in nums %}{% if t %}{% set n = x %}{% endif %}{{ n }}{% endfor %}{{ n }}',
    '{% for x in nums %}{{ n }}{% set n = x %}{{ n }};{% endfor %}{{ n }}',
    '{% for loop in nums %}{% endfor %}',
    '{% for x in nums %}{% set loop = 1 %}{% endfor %}',
    "{% for x in nums %}{{ x ~ loop.index0 }}{% endfor %}",
    '{% for x in %}{% endfor %}',
    '{% for in nums %}{% endfor %}',
    '{% for x nums %}{% endfor %}',
    '{% for x.y in nums %}{% endfor %}',
    '{% for 1 in nums %}{% endfor %}',
    '{% for x in nums %}',
    '{% for x in nums %}{% endif %}',
    '{% for true in nums %}{% endfor %}',
    '{% for x in nums: %}{{ x }}{% endfor %}',
    '{% for x, in [[1, 2]] %}{% endfor %}',
    ("{% for u in users|groupby('age') %}{{ u.grouper }}:{{ u.list|map(attribute='name')|join('+') }} "
     '{% endfor %}'),
    "{% for g, us in users|groupby('city') %}{{ g }}{{ us|length }}{% endfor %}",
    '{% for row in nums|batch(2) %}{{ row }}{% endfor %}',
    '{% for i in range(3) %}{{ i }}{% endfor %}',
    '{% for i in range(messages|length) %}x{% endfor %}',
    '{% for x in nums|reverse %}{{ x }}{% endfor %}',
    '{% for x in d.a if x is odd %}{{ x }}{% endfor %}',
    '{% for x in nums if x %}{% for y in nums if y > x %}{{ x }}{{ y }} {% endfor %}{% endfor %}',
    "{% set it = nums|map('string') %}{{ it|list }}{{ it|list }}",
    "{% set it = nums|map('string') %}{{ it|first }}{{ it|first }}{{ it|list }}",
    ("{% set it = nums|select('odd') %}{% for x in it %}{{ x }}{% endfor %}{% for x in it %}{{ x }}{% "
     'endfor %}'),
    '{% set it = nums|reverse %}{{ 2 in it }}{{ it|list }}',
    '{% for x in nums if x is nope %}{% endfor %}',
    "{% set bad = nums|map('nope') %}ok",
    '{% for x in bad|default([1]) %}{{ x }}{% endfor %}',
    # set
    '{% set x = 1 %}{{ x }}',
    '{% set x, y = 1, 2 %}{{ x }}{{ y }}',
    '{% set x, y = [1] %}',
    '{% set x = 1, 2 %}{{ x }}',
    '{% set (x, y) = (1, 2) %}{{ y }}',
    '{% set x %}a{{ n }}b{% endset %}{{ x }}',
    '{% set x | upper %}abc{% endset %}{{ x }}',
    "{% set x | replace('a', 'z') | upper %}abc{% endset %}{{ x }}",
    '{% set x %}{% endset %}[{{ x }}]',
    '{% set x = missing %}{{ x is defined }}',
    '{% set x %}a{% endset %}{{ x is string }}{{ x|length }}',
    '{% set x = x %}{{ x is defined }}',
    '{% set n = n + 1 %}{{ n }}',
    '{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{% set ns.b = 3 %}{{ ns.a }}{{ ns.b }}',
    '{% set d.x = 1 %}',
    '{% set missing.x = 1 %}',
    '{% set nums[0] = 1 %}',
    '{% set ns = namespace() %}{% set ns.a, x = 1, 2 %}{{ ns.a }}{{ x }}',
    '{% set ns = namespace() %}{% set ns.a %}body{% endset %}{{ ns.a }}',
    '{% set ns = namespace(x=[]) %}{% set ns.x = ns.x + [1] %}{{ ns.x }}',
    '{% set ns = namespace() %}{% set ns.a.b = 1 %}',
    '{% set true = 1 %}',
    "{% set 'a' = 1 %}",
    '{% set x = %}',
    '{% set = 1 %}',
    '{% set x %}',
    '{% set x == 1 %}',
    '{% set x += 1 %}',
    '{% set x = 1 if t else 2 %}{{ x }}',
    '{% if no %}{% set n = 1 %}{% endif %}{{ n }}',
    '{% if t %}{% set n = 1 %}{% endif %}{{ n }}',
    '{% if t %}{% set q = 1 %}{% endif %}{{ q }}',
    '{% if no %}{% set q = 1 %}{% endif %}{{ q is defined }}',
    '{% if no %}{% set n = 1 %}{% else %}{% set n = 2 %}{% endif %}{{ n }}',
    '{% if no %}{% elif no %}{% set n = 5 %}{% endif %}{{ n }}',
    '{% for x in nums %}{{ n }}{% endfor %}{% set n = 1 %}{{ n }}',
    '{{ n }}{% set n = 1 %}{{ n }}',
    ('{% set n = 1 %}{% for x in [1] %}{% set n = 2 %}{% for y in [1] %}{{ n }}{% set n = 3 %}{{ n }}{% '
     'endfor %}{{ n }}{% endfor %}{{ n }}'),
    '{% set a = b %}{% set b = 1 %}{{ a is defined }}{{ b }}',
    ('{% set ns = namespace(f=none) %}{% for i in range(2) %}{% macro g() %}{{ i }}{% endmacro %}{% if '
     'i == 0 %}{% set ns.f = g %}{% endif %}{{ ns.f() }}{% endfor %}'),
    '{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y is defined }}',
    '{% set range = 5 %}{{ range }}',
    '{% set ns = namespace() %}{% set ns.self = ns %}{{ ns.self.self is defined }}',
    '{% set _x = 1 %}{{ _x }}',
    '{% set é = 1 %}{{ é }}',
    "{% set x = {'a': 1} %}{{ x.a }}",
    '{% set if = 1 %}{{ n }}',
    '{% set l = [1, 2] %}{% set l2 = l %}{{ l2 }}',
    # macro, call
    '{% macro m() %}a{% endmacro %}{{ m() }}',
    '{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=4, a=5) }}',
    '{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m() }}',
    '{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}',
    '{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}',
    '{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}',
    '{% macro m(a) %}{% endmacro %}{{ m(b=1) }}',
    '{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}',
    '{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}',
    '{% macro m(a) %}{{ a }}{{ varargs|length }}{% endmacro %}{{ m(1, 2, 3) }}',
    '{% macro m(a) %}{{ kwargs.items()|list }}{% endmacro %}{{ m(1, z=2) }}',
    '{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}',
    '{% macro m(a=b, b=1) %}{{ a }}{{ b }}{% endmacro %}{{ m() }}',
    '{% macro m(a=1, b) %}{% endmacro %}',
    '{% macro m(a, a) %}{% endmacro %}',
    '{% macro m(n=n) %}{{ n }}{% endmacro %}{{ m() }}',
    '{% macro m() %}{{ n }}{% endmacro %}{{ m() }}',
    '{% macro m() %}{{ late }}{% endmacro %}{% set late = 5 %}{{ m() }}',
    '{% macro m() %}{{ late }}{% endmacro %}{{ m() }}{% set late = 5 %}',
    '{% set x = 1 %}{% macro m() %}{{ x }}{% set x = 2 %}{{ x }}{% endmacro %}{{ m() }}{{ x }}{{ m() }}',
    '{% macro m(n) %}{% if n > 0 %}{{ n }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}',
    ('{% macro m(x) %}{% for i in x %}{% if i is iterable %}({{ m(i) }}){% else %}{{ i }}{% endif %}{% '
     'endfor %}{% endmacro %}{{ m([1, [2, [3]], 4]) }}'),
    '{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}body{% endcall %}',
    '{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b=5) m() %}{{ a }}{{ b }}{% endcall %}',
    '{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}',
    '{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}',
    '{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}',
    '{% macro m(caller) %}{{ caller() }}{% endmacro %}',
    '{% macro m(caller=none) %}{{ caller }}{% endmacro %}{{ m() }}',
    '{% call range(2) %}x{% endcall %}',
    '{% call n %}x{% endcall %}',
    '{% macro m() %} a {% endmacro %}[{{ m()|trim }}]',
    '{{ m() }}{% macro m() %}a{% endmacro %}',
    '{% macro m() %}{% endmacro %}{{ m }}',
    ('{% macro m(a, b=1) %}{{ kwargs }}{% endmacro %}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}'
     '{{ m.catch_varargs }}{{ m.caller }}'),
    '{% macro m() %}{% endmacro %}{{ m() is string }}{{ m()|length }}',
    '{% macro outer() %}{% macro inner() %}i{% endmacro %}{{ inner() }}o{% endmacro %}{{ outer() }}',
    '{% macro m() %}a{% endmacro %}{% macro k() %}{{ m() }}b{% endmacro %}{{ k() }}',
    '{% for x in nums %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}{{ m is defined }}',
    '{% macro m() %}{% endmacro',
    '{% macro m %}{% endmacro %}',
    '{% macro 1() %}{% endmacro %}',
    '{% macro m(a.b) %}{% endmacro %}',
    '{% macro m(*a) %}{% endmacro %}',
    '{% macro m() %}{{ loop is defined }}{% endmacro %}{% for x in [1] %}{{ m() }}{% endfor %}',
    '{% for x in [1] %}{% macro m() %}{{ loop.index }}{% endmacro %}{{ m() }}{% endfor %}',
    '{% macro m(varargs) %}{{ varargs }}{% endmacro %}{{ m(1) }}',
    '{% macro m(a, kwargs=2) %}{{ kwargs }}{% endmacro %}{{ m(1, kwargs=3) }}',
    ("{% macro a() %}{{ caller('x') }}{% endmacro %}{% for i in nums %}{% call(v) a() %}{{ v }}{{ i }}"
     '{% endcall %}{% endfor %}'),
    '{% macro m(x) %}{% set x = x + 1 %}{{ x }}{% endmacro %}{{ m(1) }}',
    '{% if t %}{% macro m() %}a{% endmacro %}{% endif %}{{ m() }}',
    '{% if no %}{% macro m() %}a{% endmacro %}{% endif %}{{ m() }}',
    ('{% set ns = namespace(n=0) %}{% macro m() %}{% set ns.n = ns.n + 1 %}{% endmacro %}{{ m() }}{{ '
     'm() }}{{ ns.n }}'),
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ nums|map('string')|map('int')|list }}{{ m(a=m(a=1)) }}",
    "{% macro m(d={'a': 1}) %}{{ d.a }}{% endmacro %}{{ m() }}{{ m({'a': 2}) }}",
    '{% macro m(a) -%}   {{ a }}   {%- endmacro %}[{{ m(1) }}]',
    '{% macro _m() %}p{% endmacro %}{{ _m() }}',
    ("{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 3, 'b': 4}) }}{{ m(1, "
     '*[2]) }}'),
    # filter, with, generation, others
    '{% filter upper %}a{{ s }}{% endfilter %}',
    "{% filter replace('a', 'b')|upper %}abc{% endfilter %}",
    '{% filter nope %}{% endfilter %}',
    '{% filter trim %}  x  {% endfilter %}',
    '{% filter upper %}{% set q = 1 %}{% endfilter %}{{ q is defined }}',
    '{% filter indent(2) %}a\nb{% endfilter %}',
    '{% filter %}a{% endfilter %}',
    '{% filter length %}abc{% endfilter %}',
    '{% set w = 1 %}{% filter indent(w) %}{% set w = 3 %}a\nb{% endfilter %}',
    '{% with %}{% set x = 1 %}{{ x }}{% endwith %}{{ x is defined }}',
    '{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}',
    '{% with n = n + 1 %}{{ n }}{% endwith %}{{ n }}',
    '{% with a = 1, b = a %}{{ b is defined }}{% endwith %}',
    '{% with a %}{% endwith %}',
    '{% with a = 1 %}{% for x in nums %}{{ a }}{% endfor %}{% endwith %}',
    '{% with a, b = 1 %}{% endwith %}',
    '{% with (a, b) = (1, 2) %}{{ b }}{% endwith %}',
    '{% generation %}a{{ n }}{% endgeneration %}',
    '{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q is defined }}',
    '{% for x in nums %}{% generation %}{{ x }}{{ loop.index }}{% endgeneration %}{% endfor %}',
    '  {% generation %}\nx\n  {% endgeneration %}\ny',
    '{% generation %}a',
    '{% for x in nums %}{% generation %}{% break %}{% endgeneration %}{% endfor %}',
    '{% generation %}{% generation %}i{% endgeneration %}o{% endgeneration %}',
    '{% print 1 %}',
    '{% print 1, s %}',
    '{% nope %}',
    '{% 5 %}',
    "{% 'a' %}",
    "{% include 'x' %}",
    "{% extends 'x' %}",
    "{% import 'x' as y %}",
    "{% from 'x' import y %}",
    '{% do nums.append(1) %}',
    '{% trans %}a{% endtrans %}',
    '{% endfor %}',
    '{% else %}',
    '{% endset %}',
    '{% set x = 1 %}{% endset %}',
    '{% if t %}{{ nope() }}{% endif %}',
    '{% if no %}{{ nope() }}{% endif %}ok',
    '{% if no %}{{ 1|nope }}{% endif %}ok',
    '{% if t %}{{ 1|nope }}{% endif %}',
    '{% if no %}{{ 1 is nope }}{% endif %}ok',
    '{% for x in [] %}{{ 1|nope }}{% endfor %}',
    '{% if no %}{% for x in [] %}{{ 1|nope }}{% endfor %}{% endif %}',
    '{% if no %}{% for x in []|nope %}{% endfor %}{% endif %}ok',
    '{{ 1 if t else 1|nope }}',
    '{{ (1|nope) }}',
    # errors at run time, and what was printed before them goes
    'before {{ missing.x }}',
    "{{ raise_exception('no ' ~ s) }}",
    "{% if n > 1 %}{{ raise_exception('big') }}{% endif %}",
    '{{ 1 }}{{ 1 / 0 }}',
    '{{ missing }}|{{ missing|length }}|{{ [missing] }}',
    '{{ d.nope }}{{ d.nope.x }}',
    # nesting, long things
    '{{ ((((((((((1)))))))))) }}',
    '{{ [[[[[[[[[[1]]]]]]]]]] }}',
    "{{ " + " + ".join(["1"] * 60) + " }}",
    "{{ " + " ~ ".join(["'a'"] * 150) + " }}",
    "{% if t %}" * 15 + "x" + "{% endif %}" * 15,
    "{% if no %}a" + "".join("{%% elif n == %d %%}%d" % (i, i) for i in range(60)) + "{% endif %}",
    "{{ 'x' * 1000 }}",
    "{{ nums|map('string')|map('upper')|map('lower')|map('trim')|join }}",
    '{{ not not not t }}',
    '{{ - - - 1 }}',
    # a real idiom or two
    "{% for m in users %}{{ '<|' + m['name'] + '|>' + m.city|trim + '\n' }}{% endfor %}",
    "{% if (users[0]['name'] == 'Ann') != (0 % 2 == 0) %}{{ raise_exception('x') }}{% endif %}ok",
    ('{% set loop_messages = users[1:] %}{% for m in loop_messages %}{% if loop.index0 == 0 and s != '
     "false %}{% set content = 'a' + m.name %}{% else %}{% set content = m.name %}{% endif %}{{ "
     'content.strip() }}{% endfor %}'),
    "{%- for tool in users %}\n    {{- '\\n' }}\n    {{- tool | tojson(indent=4) }}\n{%- endfor %}",
    "{{ users[::-1]|map(attribute='name')|list }}",
    ('{% set ns = namespace(last=users|length - 1, found=false) %}{% for m in users[::-1] %}{% set '
     'index = (users|length - 1) - loop.index0 %}{% if not ns.found and m.active %}{% set ns.last = '
     'index %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.last }}'),
    "{{ '</think>' in 'a</think>b' and 'a</think>b'.split('</think>')[-1].lstrip('\\n') }}",
    "{{ 'a</think>b'.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}",
]

# What jinja2 lets pass and tandem refuses: private attributes (undefined in jinja2 until they are used),
# Python's unlimited integers, and what no chat template needs.
STRICTER = [
    '{{ s.__class__ }}',
    "{{ s['__class__'] }}",
    '{{ nums.__class__.__mro__ }}',
    '{{ d.__init__ }}',
    '{{ n.__add__ }}',
    "{{ s|attr('__class__') }}",
    '{{ range.__globals__ }}',
    '{{ missing.__class__ }}',
    "{{ ''.format.__globals__ }}",
    "{{ '{0.__class__}'.format(s) }}",
    "{{ users|map(attribute='__class__')|list }}",
    '{{ 9223372036854775807 + 1 }}',
    '{{ 2 ** 64 }}',
    '{{ 10 ** 30 }}',
    '{{ 9223372036854775808 }}',
    '{{ -(-9223372036854775807 - 1) }}',
    '{{ (-8) ** 0.5 }}',
    "{{ '99999999999999999999'|int }}",
    '{{ 1e30|int }}',
    '{{ s.encode() }}',
    '{{ s.translate({}) }}',
    '{{ s.casefold() }}',
    '{{ d.fromkeys }}',
    '{{ tabs.expandtabs() }}',
    '{{ n.bit_length() }}',
    '{{ n.real }}',
    '{{ nums|random }}',
    '{{ s|urlize }}',
    '{{ d|pprint }}',
    '{{ s|wordwrap(3) }}',
    '{{ d|xmlattr }}',
    '{{ html|striptags }}',
    '{{ lipsum() }}',
    '{% block a %}{% endblock %}',
    '{% autoescape false %}{% endautoescape %}',
    '{% for x in nums recursive %}{% endfor %}',
    "{{ '\\ud83d' }}",
    "{{ '\\N{BULLET}' }}",
]
