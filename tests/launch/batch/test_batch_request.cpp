// What a line of a batch asks for, and what is wrong with it.
#include "launch/batch/request.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tandem::test {
namespace {

BatchDefaults defaults() {
  BatchDefaults d;
  d.sampling.temperature = 0.25f;
  d.sampling.top_k = 7;
  d.max_new_tokens = 99;
  d.stop = {"END"};
  d.model = "file";
  return d;
}

std::string line_of(const std::string& url, const std::string& body, const std::string& id = "\"a\"") {
  return R"({"custom_id": )" + id + R"(, "method": "POST", "url": "/v1/)" + url + R"(", "body": )" + body +
         "}";
}

BatchRequest request_of(const std::string& url, const std::string& body,
                        const BatchDefaults& d = defaults()) {
  BatchLine line = parse_batch_line(line_of(url, body), d);
  if (const auto* fault = std::get_if<BatchFault>(&line.what)) {
    ADD_FAILURE() << body << ": " << fault->message;
    return {};
  }
  EXPECT_EQ(line.custom_id, "a");
  return std::get<BatchRequest>(std::move(line.what));
}

BatchFault fault_of(const std::string& text) {
  BatchLine line = parse_batch_line(text, defaults());
  if (auto* fault = std::get_if<BatchFault>(&line.what)) return *fault;
  ADD_FAILURE() << "taken: " << text;
  return {};
}

TEST(BatchRequest, TakesTheFlagsWhereTheBodySaysNothing) {
  const BatchRequest r = request_of("completions", R"({"prompt": "x"})");
  EXPECT_EQ(r.endpoint, BatchEndpoint::completions);
  EXPECT_EQ(r.model, "file");
  EXPECT_EQ(std::get<std::string>(r.prompts.at(0)), "x");
  EXPECT_EQ(r.n_choices, 1);
  EXPECT_EQ(r.max_new_tokens, 99);
  EXPECT_EQ(r.sampling.temperature, 0.25f);
  EXPECT_EQ(r.sampling.top_k, 7);
  EXPECT_EQ(r.sampling.n_logprobs, -1);
  EXPECT_EQ(r.stop, (std::vector<std::string>{"END"}));
  EXPECT_FALSE(r.ignore_eos);
  EXPECT_FALSE(r.echo);
}

TEST(BatchRequest, ReadsEveryField) {
  const BatchRequest r =
      request_of("completions", R"({"model": "m", "prompt": ["x", [1, 2]], "n": 3, "max_tokens": 5,
      "temperature": 1.5, "top_p": 0.5, "top_k": 20, "min_p": 0.125, "seed": 18446744073709551615,
      "stop": ["a", "b"], "logprobs": 4, "logit_bias": {"5": -100, "6": 1.5}, "frequency_penalty": 0.5,
      "presence_penalty": -0.5, "repeat_penalty": 1.25, "ignore_eos": true, "echo": null, "user": "u",
      "stream": false, "best_of": 3, "unheard_of": [{}]})");
  EXPECT_EQ(r.model, "m");
  EXPECT_EQ(std::get<std::vector<int32_t>>(r.prompts.at(1)), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(r.n_choices, 3);
  EXPECT_EQ(r.max_new_tokens, 5);
  EXPECT_EQ(r.sampling.temperature, 1.5f);
  EXPECT_EQ(r.sampling.top_p, 0.5f);
  EXPECT_EQ(r.sampling.top_k, 20);
  EXPECT_EQ(r.sampling.min_p, 0.125f);
  EXPECT_EQ(r.sampling.seed, UINT64_MAX);
  EXPECT_EQ(r.sampling.n_logprobs, 4);
  ASSERT_EQ(r.sampling.bias.size(), 2u);
  EXPECT_EQ(r.sampling.bias[0].token, 5);
  EXPECT_EQ(r.sampling.bias[1].bias, 1.5f);
  EXPECT_EQ(r.sampling.frequency_penalty, 0.5f);
  EXPECT_EQ(r.sampling.presence_penalty, -0.5f);
  EXPECT_EQ(r.sampling.repeat_penalty, 1.25f);
  EXPECT_EQ(r.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(r.ignore_eos);
}

TEST(BatchRequest, ReadsPromptsInAllForms) {
  EXPECT_EQ(request_of("completions", R"({"prompt": [3, 4]})").prompts.size(), 1u);
  EXPECT_EQ(request_of("completions", R"({"prompt": [[3, 4], [5]]})").prompts.size(), 2u);
  EXPECT_EQ(request_of("completions", R"({"prompt": ["a", "b", "c"]})").prompts.size(), 3u);
  EXPECT_EQ(request_of("completions", R"({"prompt": "x", "stop": "s"})").stop,
            (std::vector<std::string>{"s"}));
  EXPECT_EQ(request_of("completions", R"({"prompt": "x", "seed": -1})").sampling.seed, UINT64_MAX);
  EXPECT_EQ(request_of("completions", R"({"prompt": "x", "logprobs": 0})").sampling.n_logprobs, 0);
  EXPECT_EQ(request_of("completions", R"({"prompt": "x", "max_tokens": 0, "echo": true})").max_new_tokens, 0);
}

TEST(BatchRequest, ReadsConversations) {
  BatchDefaults d = defaults();
  d.system = "Be brief.";
  const BatchRequest r = request_of("chat/completions", R"({"messages": [
      {"role": "user", "content": [{"type": "text", "text": "Gr"}, {"type": "text", "text": "üße"}], "name": "n"},
      {"role": "assistant", "content": null, "tool_calls": [1]}, {"role": "tool", "content": "t"}],
      "logprobs": true, "top_logprobs": 2, "max_tokens": 3, "max_completion_tokens": 4,
      "tools": [{"type": "function"}], "chat_template_kwargs": {"enable_thinking": false}})",
                                    d);
  ASSERT_EQ(r.messages.size(), 4u);
  EXPECT_EQ(r.messages[0].dump(), R"({"role":"system","content":"Be brief."})");
  EXPECT_EQ(r.messages[1].dump(), R"({"role":"user","content":"Grüße","name":"n"})");
  EXPECT_TRUE(r.messages[2]["content"].is_null()) << "beside calls no content is none";
  EXPECT_EQ(r.messages[2]["tool_calls"].size(), 1u);
  EXPECT_EQ(r.sampling.n_logprobs, 2);
  EXPECT_EQ(r.max_new_tokens, 4);
  EXPECT_EQ(r.template_variables.dump(), R"({"enable_thinking":false,"tools":[{"type":"function"}]})");
  const BatchRequest own =
      request_of("chat/completions", R"({"messages": [{"role": "developer", "content": "x"}],
      "logprobs": true, "response_format": {"type": "text"}})",
                 d);
  EXPECT_EQ(own.messages.dump(), R"([{"role":"system","content":"x"}])");
  EXPECT_EQ(own.sampling.n_logprobs, 0);
  EXPECT_EQ(request_of("chat/completions", R"({"messages": [{"role": "user"}]})").sampling.n_logprobs, -1);
}

TEST(BatchRequest, CallsArgumentsAreTextsOrObjects) {
  const auto parsed = [](const std::string& arguments) {
    return with_parsed_arguments(nlohmann::ordered_json::parse(
        R"([{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls":
        [{"function": {"name": "f", "arguments": )" +
        arguments + "}}]}]"));
  };
  EXPECT_EQ((*parsed(R"("{\"b\": 1, \"a\": [2]}")"))[1]["tool_calls"][0]["function"].dump(),
            R"({"name":"f","arguments":{"b":1,"a":[2]}})");
  for (const char* other : {R"({"a": 1})", R"("no JSON")", R"("[1]")", "7", "null"})
    EXPECT_FALSE(parsed(other)) << other;
  EXPECT_FALSE(parsed('"' + std::string(100000, '[') + '"'));
  EXPECT_FALSE(
      with_parsed_arguments(nlohmann::ordered_json::parse(R"([{"tool_calls": [1, {"function": 2}]}])")));
  EXPECT_EQ(request_of(
                "chat/completions",
                R"({"messages": [{"role": "user"}], "tools": [{"type": "function"}], "tool_choice": "none"})")
                .template_variables.dump(),
            "{}");
}

TEST(BatchRequest, SeedsAreAFunctionOfNameAndFlag) {
  const auto seed_of = [](const std::string& id, uint64_t flag) {
    BatchDefaults d = defaults();
    d.sampling.seed = flag;
    BatchLine line = parse_batch_line(line_of("completions", R"({"prompt": "x"})", id), d);
    return std::get<BatchRequest>(line.what).sampling.seed;
  };
  EXPECT_EQ(seed_of("\"a\"", 0), seed_of("\"a\"", 0));
  EXPECT_NE(seed_of("\"a\"", 0), seed_of("\"b\"", 0));
  EXPECT_NE(seed_of("\"a\"", 0), seed_of("\"a\"", 1));
  EXPECT_EQ(choice_seed(5, 0), 5u);
  EXPECT_NE(choice_seed(5, 1), choice_seed(5, 2));
  EXPECT_NE(choice_seed(5, 1), choice_seed(6, 1));
}

TEST(BatchRequest, SaysWhatIsNoRequest) {
  const auto expect_fault = [](const std::string& text, const std::string& code) {
    const BatchFault fault = fault_of(text);
    EXPECT_EQ(fault.status, 0) << text;
    EXPECT_EQ(fault.code, code) << text;
    EXPECT_FALSE(fault.message.empty());
  };
  expect_fault("", "invalid_json");
  expect_fault("{", "invalid_json");
  expect_fault("[]", "invalid_json");
  expect_fault("null", "invalid_json");
  expect_fault("{\"custom_id\": 1e999}", "invalid_json");
  expect_fault("{\"custom_id\": \"\\ud800\"}", "invalid_json");
  expect_fault(std::string(100'000, '['), "invalid_json");
  expect_fault("{\"custom_id\": \"\xFF\"}", "invalid_utf8");
  expect_fault(R"({"method": "POST"})", "missing_custom_id");
  expect_fault(R"({"custom_id": 5})", "invalid_custom_id");
  expect_fault(R"({"custom_id": ""})", "invalid_custom_id");
  expect_fault(R"({"custom_id": ")" + std::string(5000, 'x') + "\"}", "invalid_custom_id");
  expect_fault(R"({"custom_id": "a"})", "missing_url");
  expect_fault(R"({"custom_id": "a", "url": 5})", "missing_url");
  expect_fault(R"({"custom_id": "a", "url": "/v1/embeddings"})", "unknown_url");
  expect_fault(R"({"custom_id": "a", "method": "GET", "url": "/v1/completions"})", "invalid_method");
  expect_fault(R"({"custom_id": "a", "url": "/v1/completions"})", "missing_body");
  expect_fault(R"({"custom_id": "a", "url": "/v1/completions", "body": []})", "missing_body");
}

TEST(BatchRequest, SaysWhichFieldIsWrong) {
  const auto expect_fault = [](const std::string& url, const std::string& field, const std::string& param) {
    const std::string needed =
        url == "completions" ? R"("prompt": "x")" : R"("messages": [{"role": "user"}])";
    // A field that is named twice counts as the last one says.
    const BatchFault fault = fault_of(line_of(url, "{" + needed + (field.empty() ? "" : ", ") + field + "}"));
    EXPECT_EQ(fault.status, 400) << field;
    EXPECT_EQ(fault.param, param) << field;
    EXPECT_NE(fault.message.find(param), std::string::npos) << fault.message;
  };
  for (const char* field : {R"("temperature": "hot")", R"("temperature": -1)", R"("temperature": 1000)",
                            R"("temperature": true)"}) {
    expect_fault("completions", field, "temperature");
  }
  for (const char* field : {R"("prompt": null)", R"("prompt": 5)", R"("prompt": [])", R"("prompt": [[]])",
                            R"("prompt": ["a", 5])", R"("prompt": [5, "a"])", R"("prompt": [-1])",
                            R"("prompt": [1.5])", R"("prompt": [4294967296])", R"("prompt": {})"}) {
    expect_fault("completions", field, "prompt");
  }
  for (const char* field :
       {R"("n": 0)", R"("n": 129)", R"("n": 1.5)", R"("n": "1")", R"("n": 18446744073709551615)"})
    expect_fault("completions", field, "n");
  expect_fault("completions", R"("max_tokens": -1)", "max_tokens");
  expect_fault("completions", R"("top_p": 1.5)", "top_p");
  expect_fault("completions", R"("seed": 1.5)", "seed");
  expect_fault("completions", R"("stop": 5)", "stop");
  expect_fault("completions", R"("stop": ["a", 5])", "stop");
  expect_fault("completions", R"("logprobs": true)", "logprobs");
  expect_fault("completions", R"("logprobs": 21)", "logprobs");
  expect_fault("completions", R"("logit_bias": [1])", "logit_bias");
  expect_fault("completions", R"("logit_bias": {"a": 1})", "logit_bias");
  expect_fault("completions", R"("logit_bias": {"1": "a"})", "logit_bias");
  expect_fault("completions", R"("logit_bias": {"1": 101})", "logit_bias");
  expect_fault("completions", R"("logit_bias": {"01": 1})", "logit_bias");
  expect_fault("completions", R"("logit_bias": {"-0": 1})", "logit_bias");
  expect_fault("completions", R"("min_tokens": 2)", "min_tokens");
  expect_fault("completions", R"("guided_json": {"type": "object"})", "guided_json");
  expect_fault("completions", R"("stop_token_ids": [3])", "stop_token_ids");
  expect_fault("completions", R"("echo": 1)", "echo");
  expect_fault("completions", R"("echo": true, "logprobs": 1)", "echo");
  expect_fault("completions", R"("model": 1)", "model");
  expect_fault("completions", R"("stream": true)", "stream");
  expect_fault("completions", R"("best_of": 2)", "best_of");
  expect_fault("completions", R"("suffix": "x")", "suffix");
  for (const char* field :
       {R"("messages": [])", R"("messages": "x")", R"("messages": ["x"])", R"("messages": [{}])",
        R"("messages": [{"role": 5}])", R"("messages": [{"role": "user", "content": 5}])",
        R"("messages": [{"role": "user", "content": ["x"]}])",
        R"("messages": [{"role": "user", "content": [{"type": "text"}]}])",
        R"("messages": [{"role": "user", "content": [{"type": "image_url"}]}])"}) {
    expect_fault("chat/completions", field, "messages");
  }
  expect_fault("chat/completions", R"("logprobs": 1)", "logprobs");
  expect_fault("chat/completions", R"("top_logprobs": 2)", "top_logprobs");
  expect_fault("chat/completions", R"("logprobs": true, "top_logprobs": 21)", "top_logprobs");
  expect_fault("chat/completions", R"("max_completion_tokens": "x")", "max_completion_tokens");
  expect_fault("chat/completions", R"("response_format": {"type": "json_object"})", "response_format");
  expect_fault("chat/completions", R"("response_format": {"type": 5})", "response_format");
  expect_fault("chat/completions", R"("tools": {})", "tools");
  expect_fault("chat/completions", R"("tool_choice": "required")", "tool_choice");
  expect_fault("chat/completions", R"("tool_choice": {"type": "function"})", "tool_choice");
  expect_fault("chat/completions", R"("functions": [{"name": "f"}])", "functions");
  expect_fault("chat/completions", R"("function_call": {"name": "f"})", "function_call");
  expect_fault("chat/completions", R"("modalities": ["text", "audio"])", "modalities");
  expect_fault("chat/completions", R"("chat_template_kwargs": 1)", "chat_template_kwargs");
}

TEST(BatchRequest, TakesLinesOfText) {
  BatchLine line = prompt_line("Grüße", "line-7", BatchEndpoint::chat, defaults());
  EXPECT_EQ(line.custom_id, "line-7");
  EXPECT_EQ(std::get<BatchRequest>(line.what).messages.dump(), R"([{"role":"user","content":"Grüße"}])");
  line = prompt_line("{\"a\"", "line-8", BatchEndpoint::completions, defaults());
  EXPECT_EQ(std::get<std::string>(std::get<BatchRequest>(line.what).prompts[0]), "{\"a\"");
  EXPECT_EQ(std::get<BatchFault>(prompt_line("\xFF", "x", BatchEndpoint::chat, defaults()).what).code,
            "invalid_utf8");
}

}  // namespace
}  // namespace tandem::test
