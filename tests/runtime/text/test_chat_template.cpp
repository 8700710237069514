// Chat templates of real models, and the template language piece by piece, against what Python's jinja2
// prints (tests/golden/chat_templates; its scripts say how the expectations are made).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "ops/core/error.h"
#include "runtime/text/chat_template.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

std::string golden_folder() {
  const char* source = std::getenv("TANDEM_SOURCE_DIR");
  return std::string(source == nullptr ? "." : source) + "/tests/golden/chat_templates/";
}

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

Json read_json(const std::string& name) {
  return Json::parse(read_text(golden_folder() + name));
}

std::tm parse_clock(const std::string& text) {
  std::tm clock{};
  std::istringstream in(text);
  in >> std::get_time(&clock, "%Y-%m-%d %H:%M:%S");
  std::mktime(&clock);  // fills in the day of the week
  return clock;
}

struct Outcome {
  bool failed = false;
  std::string text;  ///< printed, or the error's message
};

Outcome render(const std::string& source, const Json& variables, const std::tm& clock) {
  // Golden cases come sorted by template: the last one is kept.
  static std::string last_source;
  static std::optional<ChatTemplate> last;
  try {
    if (!last || last_source != source) {
      last.reset();
      last.emplace(source);
      last_source = source;
    }
    last->set_clock([clock] { return clock; });
    return {false, last->render(variables)};
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_data);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return {true, error.what()};
  }
}

/// Empty where the outcome is what jinja2 gives, else what is wrong. Both must fail or both print the same;
/// the texts of errors are jinja2's own affair but for those that a template raises itself.
std::string difference(const Json& expected, const Outcome& outcome) {
  if (expected.contains("output")) {
    const auto& wanted = expected["output"].get_ref<const std::string&>();
    if (outcome.failed) return "it fails: " + outcome.text + "\nwhere jinja2 prints: " + wanted;
    if (outcome.text == wanted) return "";
    size_t at = 0;
    while (at < wanted.size() && at < outcome.text.size() && wanted[at] == outcome.text[at]) ++at;
    return "byte " + std::to_string(at) + " differs; printed:\n" + outcome.text + "\nwanted:\n" + wanted;
  }
  const auto& wanted = expected["error"].get_ref<const std::string&>();
  if (!outcome.failed) return "it prints: " + outcome.text + "\nwhere jinja2 fails: " + wanted;
  constexpr std::string_view kRaised = "TemplateError: ";
  if (!wanted.starts_with(kRaised)) return "";
  std::string message = wanted.substr(kRaised.size());
  std::replace(message.begin(), message.end(), '\n', ' ');  // ours are one line
  const bool told = outcome.text.ends_with(message);
  return told ? "" : "the error says: " + outcome.text + "\nwanted: " + wanted;
}

TEST(ChatTemplateGolden, RealTemplatesPrintWhatJinja2Prints) {
  const Json golden = read_json("expected.json");
  const std::tm clock = parse_clock(golden["clock"]);
  ASSERT_GT(golden["cases"].size(), 2000u);
  size_t n_printed = 0;
  int n_wrong = 0;
  for (const Json& expected : golden["cases"]) {
    const std::string name = expected["template"];
    Json variables = {{"messages", golden["conversations"][expected["conversation"].get<std::string>()]},
                      {"tools", nullptr},
                      {"documents", nullptr}};
    for (const auto& [key, value] : golden["extra"][expected["extra"].get<std::string>()].items()) {
      variables[key] = value;
    }
    variables["bos_token"] = expected["bos"];
    variables["eos_token"] = expected["eos"];
    const Outcome outcome = render(read_text(golden_folder() + name + ".jinja"), variables, clock);
    n_printed += outcome.failed ? 0 : outcome.text.size();
    const std::string wrong = difference(expected, outcome);
    EXPECT_EQ(wrong, "") << name << " on " << expected["conversation"] << " with " << expected["extra"];
    if (!wrong.empty() && ++n_wrong >= 20) break;
  }
  EXPECT_GT(n_printed, 100'000u);  // the outputs are not all empty
}

TEST(ChatTemplateGolden, TheLanguageIsJinja2s) {
  const Json golden = read_json("language.json");
  const std::tm clock = parse_clock(golden["clock"]);
  ASSERT_GT(golden["cases"].size(), 700u);
  int n_wrong = 0;
  for (const Json& expected : golden["cases"]) {
    const Outcome outcome = render(expected["source"], golden["variables"], clock);
    const std::string wrong = difference(expected, outcome);
    EXPECT_EQ(wrong, "") << expected["source"];
    if (!wrong.empty() && ++n_wrong >= 60) break;
  }
}

// Where tandem is stricter than jinja2 on purpose.
TEST(ChatTemplateGolden, StricterThanJinja2) {
  const Json golden = read_json("language.json");
  const std::tm clock = parse_clock(golden["clock"]);
  ASSERT_GT(golden["stricter"].size(), 10u);
  for (const Json& source : golden["stricter"]) {
    const Outcome outcome = render(source, golden["variables"], clock);
    EXPECT_TRUE(outcome.failed) << source << " printed " << outcome.text;
  }
}

TEST(ChatTemplateGolden, TheComparisonNoticesWrongAnswers) {
  EXPECT_EQ(difference({{"output", "abc"}}, {false, "abc"}), "");
  EXPECT_NE(difference({{"output", "abc"}}, {false, "abd"}), "");
  EXPECT_NE(difference({{"output", "abc"}}, {false, "abc\n"}), "");
  EXPECT_NE(difference({{"output", "abc"}}, {false, ""}), "");
  EXPECT_NE(difference({{"output", ""}}, {true, "chat template: bad"}), "");
  EXPECT_NE(difference({{"error", "TypeError: no"}}, {false, ""}), "");
  EXPECT_EQ(difference({{"error", "TypeError: no"}}, {true, "chat template: other words"}), "");
  EXPECT_NE(difference({{"error", "TemplateError: Say this"}}, {true, "chat template: Say that"}), "");
  EXPECT_EQ(difference({{"error", "TemplateError: Say this"}}, {true, "chat template: Say this"}), "");
}

}  // namespace
}  // namespace tandem
