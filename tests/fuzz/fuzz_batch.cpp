// libFuzzer target: any bytes are a line of a batch. They are a request within its bounds, or a fault that
// makes one valid line of JSON; the quick look for the custom_id sees what the parser sees.
#include <fmt/format.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "launch/batch/input.h"
#include "launch/batch/request.h"
#include "launch/batch/response.h"

namespace {

using namespace tandem;

void expect(bool condition, const char* what) {
  if (condition) return;
  fmt::print(stderr, "broken promise: {}\n", what);
  std::abort();
}

void expect_result(const std::string& line, const std::string& custom_id, bool is_good) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  expect(json.is_object() && json.size() == 4, "a result is a JSON object of four");
  expect(line.find('\n') == std::string::npos, "a result is one line");
  expect(json.at("custom_id").is_null() == custom_id.empty(), "a result has the custom_id that was found");
  expect(custom_id.empty() || json.at("custom_id") == custom_id, "it is the line's own");
  expect(is_answer(line) == is_good, "answers and faults are told apart");
}

void expect_bounds(const BatchRequest& request) {
  expect(request.n_choices >= 1 && request.n_choices <= kMostChoices, "n is within its bounds");
  expect(request.sampling.n_logprobs >= -1 && request.sampling.n_logprobs <= kMostTopLogprobs,
         "logprobs are");
  expect(request.sampling.temperature >= 0 && std::isfinite(request.sampling.temperature), "temperature is");
  expect(request.sampling.top_p >= 0 && request.sampling.top_p <= 1, "top_p is");
  for (const LogitBias& bias : request.sampling.bias)
    expect(std::isfinite(bias.bias) && bias.token >= 0, "a bias is");
  if (request.endpoint == BatchEndpoint::chat) {
    expect(request.prompts.empty() && !request.messages.empty(), "a chat has messages");
    for (const auto& message : request.messages)
      expect(message.at("role").is_string() && message.at("content").is_string(), "a message is text");
  } else {
    expect(!request.prompts.empty() && request.prompts.size() <= kMostPrompts, "a completion has prompts");
  }
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer calls it so
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const BatchLine line = parse_batch_line(text, {});
  if (!line.custom_id.empty())
    expect(find_custom_id(text) == line.custom_id, "both readers find one custom_id");
  if (const auto* fault = std::get_if<BatchFault>(&line.what)) {
    expect(!fault->code.empty() && !fault->message.empty(), "a fault says what it is");
    expect(fault->status == 0 || (fault->status == 400 && !line.custom_id.empty()), "and of which kind");
    expect_result(fault_line({}, 1, line.custom_id, *fault), line.custom_id, false);
    return 0;
  }
  const auto& request = std::get<BatchRequest>(line.what);
  expect(!line.custom_id.empty(), "a request has a name");
  expect_bounds(request);
  BatchChoice choice;
  choice.text = std::string(text.substr(0, 20));
  expect_result(answer_line({}, 1, line.custom_id, request, 1, {choice}, {}), line.custom_id, true);
  return 0;
}
