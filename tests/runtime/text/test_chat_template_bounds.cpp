// Chat templates that mean harm end soon with one line; and what the class around the interpreter promises.
#include <gtest/gtest.h>

#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "ops/core/error.h"
#include "runtime/gguf/gguf.h"
#include "runtime/text/chat_template.h"
#include "tests/support/gguf_writer.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

std::string repeat(const std::string& text, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += text;
  return out;
}

TemplateLimits small_limits() {
  TemplateLimits limits;
  limits.max_steps = 100'000;
  limits.max_output_bytes = 1u << 20;
  limits.max_memory_bytes = 32u << 20;
  return limits;
}

/// The message of the Error(bad_data) that parsing or rendering must throw; empty where none came.
std::string failure(const std::string& source, const Json& variables = Json::object(),
                    TemplateLimits limits = small_limits()) {
  try {
    const std::string printed = ChatTemplate(source, limits).render(variables);
    ADD_FAILURE() << "printed " << printed.substr(0, 100) << " for " << source.substr(0, 100);
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    std::string what = error.what();
    EXPECT_LT(what.size(), 600u);
    for (const char c : what) EXPECT_GE(static_cast<unsigned char>(c), 0x20) << what;
    return what;
  }
}

void expect_limit(const std::string& source) {
  const std::string message = failure(source);
  EXPECT_NE(message.find("limit allows"), std::string::npos) << message << " for " << source.substr(0, 200);
}

TEST(ChatTemplateBounds, Steps) {
  expect_limit("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}");
  expect_limit("{{ range(100000)|map('string')|map('upper')|list|length }}");
  expect_limit("{{ (range(90000)|list + range(90000)|list)|sort }}");
  expect_limit("{{ range(90000)|unique|list|length }}");
  expect_limit("{% for i in [1]|slice(1000000000) %}{% endfor %}");
  expect_limit("{% set x = 'ab' * 100000 %}{% for i in range(5000) %}{% if x in x %}{% endif %}{% endfor %}");
  expect_limit(
      "{% set x = range(1000)|list %}{% for i in range(1000) %}{% if 5000 in x %}{% endif %}{% endfor %}");
  expect_limit("{% for c in 'x' * 200000 %}{% endfor %}");
}

TEST(ChatTemplateBounds, Memory) {
  for (const char* source :
       {"{{ 'x' * 10**9 }}",
        "{{ 'xy' * 9223372036854775807 }}",
        "{{ [1, 2] * 10**12 }}",
        "{{ (1,) * 10**9 }}",
        "{{ 'x'.center(10**12) }}",
        "{{ 'x'.ljust(9223372036854775807) }}",
        "{{ 'x'.zfill(10**10) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%.999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '{:999999999}'.format('x') }}",
        "{{ '{:0999999999,d}'.format(1) }}",
        "{{ [1]|batch(10**9, 0)|list }}",
        "{{ 'a\nb'|indent(10**9) }}",
        "{{ [1]|tojson(indent=10**9) }}",
        "{{ 'x'|center(10**9) }}",
        "{{ ('x' * 60000).replace('', 'y' * 60000) }}",
        "{{ ('y' * 60000).join('x' * 60000) }}",
        "{{ ('x' * 60000)|join('y' * 60000) }}",
        "{{ (',' * 1000000).split(',')|length }}",
        "{{ ('\n' * 1000000)|indent('x' * 1000) }}",
        "{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}"}) {
    expect_limit(source);
  }
  expect_limit(
      "{% set n = namespace(s='a') %}{% for i in range(99) %}{% set n.s %}{{ n.s * 2 }}{% endset %}{% endfor "
      "%}");
  EXPECT_NE(failure("{{ range(10**12) }}").find("Range too big"), std::string::npos);
}

TEST(ChatTemplateBounds, Output) {
  expect_limit("{% for i in range(5000) %}{{ 'x' * 1000 }}{% endfor %}");
  expect_limit(
      "{% macro m() %}{% for i in range(5000) %}{{ 'x' * 1000 }}{% endfor %}{% endmacro %}{{ m() }}");
  expect_limit("{% set x = 'x' * 1000 %}{{ [x] * 5000 }}");
  expect_limit("{% set x = 'x' * 1000 %}{{ ([x] * 5000)|tojson }}");
}

TEST(ChatTemplateBounds, DepthOfTheText) {
  for (const auto& [open, close] : std::vector<std::pair<std::string, std::string>>{{"(", ")"},
                                                                                    {"[", "]"},
                                                                                    {"{1:", "}"},
                                                                                    {"-", ""},
                                                                                    {"+", ""},
                                                                                    {"not ", ""},
                                                                                    {"a[", "]"},
                                                                                    {"a(", ")"},
                                                                                    {"a|map(", ")"},
                                                                                    {"a is in(", ")"},
                                                                                    {"a is in -", ""},
                                                                                    {"a if b else ", ""},
                                                                                    {"a[1:", "]"}}) {
    expect_limit("{{ " + repeat(open, 20000) + "1" + repeat(close, 20000) + " }}");
  }
  for (const char* tail :
       {"+1", "*1", "**1", ".b", "[0]", "()", "|upper", " is odd()", " if a", " and a", " or a"}) {
    expect_limit("{{ a" + repeat(tail, 20000) + " }}");
  }
  for (const auto& [open, close] :
       std::vector<std::pair<std::string, std::string>>{{"{% if a %}", "{% endif %}"},
                                                        {"{% if a %}{% else %}", "{% endif %}"},
                                                        {"{% for x in [1] %}", "{% endfor %}"},
                                                        {"{% set x %}", "{% endset %}"},
                                                        {"{% filter upper %}", "{% endfilter %}"},
                                                        {"{% with %}", "{% endwith %}"},
                                                        {"{% macro m() %}", "{% endmacro %}"},
                                                        {"{% call m() %}", "{% endcall %}"},
                                                        {"{% generation %}", "{% endgeneration %}"}}) {
    expect_limit(repeat(open, 20000) + repeat(close, 20000));
  }
  expect_limit("{% for " + repeat("(", 20000) + "a" + repeat(")", 20000) + " in x %}{% endfor %}");
}

TEST(ChatTemplateBounds, DepthOfTheRun) {
  for (const char* source :
       {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{{ caller() }}{% endmacro %}{% macro k() %}{% call m() %}{{ k() }}{% endcall %}{% "
        "endmacro %}"
        "{{ k() }}",
        "{% set n = namespace(x=[]) %}{% for i in range(20000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=[]) %}{% for i in range(20000) %}{% set n.x = [n.x] %}{% endfor %}{{ "
        "n.x|tojson }}",
        "{% set n = namespace(x={}) %}{% for i in range(9000) %}{% set n.x = {'a': n.x} %}{% endfor %}{{ n.x "
        "}}",
        "{% set n = namespace(x=(), y=()) %}{% for i in range(9000) %}{% set n.x = (n.x,) %}{% set n.y = "
        "(n.y,) %}"
        "{% endfor %}{{ n.x == n.y }}",
        "{% set n = namespace(x=(), y=()) %}{% for i in range(9000) %}{% set n.x = (n.x,) %}{% set n.y = "
        "(n.y,) %}"
        "{% endfor %}{{ n.x < n.y }}",
        "{% set n = namespace(x=()) %}{% for i in range(9000) %}{% set n.x = (n.x,) %}{% endfor %}{{ {n.x: "
        "1} }}",
        "{% set n = namespace(x=[1]) %}{% for i in range(9000) %}{% set n.x = n.x|map('string') %}{% endfor "
        "%}"
        "{{ n.x|list }}",
        "{% set n = namespace() %}{% set n.n = n %}{{ n }}"}) {
    expect_limit(source);
  }
}

TEST(ChatTemplateBounds, DepthOfTheData) {
  Json deep = Json::array();
  for (int i = 0; i < 5000; ++i) deep = Json::array({std::move(deep)});
  const std::string message = failure("x", {{"messages", std::move(deep)}});
  EXPECT_NE(message.find("nests deeper"), std::string::npos) << message;
}

TEST(ChatTemplateBounds, EndlessTokensOfNoUse) {
  EXPECT_NE(failure(repeat("{{", 100000)), "");
  EXPECT_NE(failure(repeat("{%", 100000)), "");
  EXPECT_NE(failure("{#" + repeat("{#", 100000)), "");
  EXPECT_NE(failure("{% raw %}" + repeat("{%", 100000)), "");
  EXPECT_NE(failure("{{ '" + repeat("x", 100000)), "");
}

TEST(ChatTemplateBounds, SourceAndDataAreChecked) {
  EXPECT_NE(failure(std::string(2u << 20, 'x')).find("bytes long"), std::string::npos);
  EXPECT_NE(failure("a \xff b").find("UTF-8"), std::string::npos);
  EXPECT_NE(failure("a \xed\xa0\x80 b").find("UTF-8"), std::string::npos);  // a surrogate
  EXPECT_NE(failure("x", {{"messages", "\xc0\xaf"}}).find("UTF-8"), std::string::npos);
  EXPECT_NE(failure("x", {{"\xff", 1}}).find("UTF-8"), std::string::npos);
  EXPECT_NE(failure("x", {{"n", uint64_t{1} << 63}}).find("64 bits"), std::string::npos);
  EXPECT_NE(failure("x", {{"n", Json::binary({1, 2})}}).find("binary"), std::string::npos);
  EXPECT_NE(failure("x", Json::array()).find("not a JSON object"), std::string::npos);
}

TEST(ChatTemplate, ErrorsNameTemplateAndLine) {
  EXPECT_EQ(failure("a\n{% if %}"), "chat template, line 2: Expected an expression, got '%}'");
  EXPECT_EQ(failure("\n\n{{ x.y }}"), "chat template, line 3: 'x' is undefined");
  EXPECT_EQ(failure("{% for m in [1] %}\n{{ raise_exception('No ' ~ m ~ '\nhere') }}{% endfor %}"),
            "chat template, line 2: No 1 here");
  EXPECT_EQ(failure("{{ d.b.c }}", {{"d", Json::object()}}),
            "chat template, line 1: 'dict object' has no attribute 'b'");
  const std::string long_one = failure("{{ raise_exception('ä' * 3000) }}");
  EXPECT_LT(long_one.size(), 450u);
  EXPECT_TRUE(long_one.ends_with("ä …")) << long_one;
}

TEST(ChatTemplate, RendersMessages) {
  const ChatTemplate chat_template(
      "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] }}{{ eos_token }}{% endfor %}"
      "{% if add_generation_prompt %}[assistant]{% endif %}{{ tools is defined and tools is none }}");
  const std::vector<ChatMessage> messages = {{"system", "Be <brief>."}, {"user", "Grüß\ngott"}};
  EXPECT_EQ(chat_template.render(messages, true, "<s>", "</s>"),
            "<s>[system]Be <brief>.</s>[user]Grüß\ngott</s>[assistant]True");
  EXPECT_EQ(chat_template.render(messages, false, "", ""), "[system]Be <brief>.[user]Grüß\ngottTrue");
  EXPECT_EQ(chat_template.render({}, false, "b", "e", {{"tools", Json::array()}}), "bFalse");
  EXPECT_EQ(chat_template.render({}, false, "b", "e", {{"bos_token", "over"}}), "overTrue");
  EXPECT_THROW(chat_template.render({}, false, "b", "e", Json::array({1})), Error);
}

TEST(ChatTemplate, KeepsTheOrderOfKeysAndTheKindsOfNumbers) {
  const ChatTemplate chat_template("{{ x|tojson }}{{ x.i / 2 }}");
  EXPECT_EQ(chat_template.render({{"x", {{"z", 1}, {"i", 4}, {"a", 1.0}, {"b", -0.5}}}}),
            R"({"z": 1, "i": 4, "a": 1.0, "b": -0.5}2.0)");
}

TEST(ChatTemplate, RunsManyTimesAndMoves) {
  ChatTemplate first(
      "{% set ns = namespace(n=0) %}{% for x in xs %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}");
  EXPECT_EQ(first.render({{"xs", {1, 2}}}), "3");
  const ChatTemplate second = std::move(first);
  EXPECT_EQ(second.render({{"xs", {4, 5}}}), "9");
  EXPECT_EQ(second.render({{"xs", Json::array()}}), "0");
}

TEST(ChatTemplate, TheClockIsTheSystemsUnlessSet) {
  ChatTemplate chat_template("{{ strftime_now('%Y-%m-%d') }}");
  const auto today = [] {
    const std::time_t now = std::time(nullptr);
    std::tm local{};
    localtime_r(&now, &local);
    std::string text(32, '\0');
    text.resize(std::strftime(text.data(), text.size(), "%Y-%m-%d", &local));
    return text;
  };
  const std::string before = today();
  const std::string printed = chat_template.render(Json::object());
  EXPECT_TRUE(printed == before || printed == today()) << printed;  // midnight may pass between
  std::tm moon{};
  moon.tm_year = 69;
  moon.tm_mon = 6;
  moon.tm_mday = 20;
  chat_template.set_clock([moon] { return moon; });
  EXPECT_EQ(chat_template.render(Json::object()), "1969-07-20");
}

class ChatTemplateFiles : public testing::Test {
 protected:
  ChatTemplateFiles() { std::filesystem::create_directories(folder_); }
  ~ChatTemplateFiles() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("tandem_chat_template_" + std::to_string(::getpid()));
};

TEST_F(ChatTemplateFiles, FromFile) {
  const auto path = folder_ / "t.jinja";
  std::ofstream(path) << "Hi {{ 1 + 1 }}";
  EXPECT_EQ(ChatTemplate::from_file(path).render(Json::object()), "Hi 2");
  std::ofstream(path) << "{% nope %}";
  try {
    ChatTemplate::from_file(path);
    ADD_FAILURE() << "a bad template was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    EXPECT_EQ(std::string(error.what()), path.string() + ", line 1: Encountered unknown tag 'nope'");
  }
  try {
    ChatTemplate::from_file(folder_ / "none.jinja");
    ADD_FAILURE() << "a missing file was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::io);
  }
  EXPECT_THROW(ChatTemplate::from_file(folder_), Error);  // a folder
}

TEST_F(ChatTemplateFiles, FromGguf) {
  const auto path = folder_ / "m.gguf";
  test::write_bytes(path, test::GgufWriter()
                              .add("general.architecture", "llama")
                              .add("tokenizer.chat_template", "{{ messages[0].content }}!")
                              .bytes());
  EXPECT_EQ(ChatTemplate::from_gguf(GgufFile::open(path)).render({{"user", "Hello"}}, true, "", ""),
            "Hello!");
  test::write_bytes(path, test::GgufWriter().add("general.architecture", "llama").bytes());
  try {
    ChatTemplate::from_gguf(GgufFile::open(path));
    ADD_FAILURE() << "a file without a template gave one";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    EXPECT_EQ(std::string(error.what()),
              path.string() + ": it has no chat template (key tokenizer.chat_template)");
    EXPECT_EQ(error.hint(), "give one with --chat-template-file FILE");
  }
}

}  // namespace
}  // namespace tandem
