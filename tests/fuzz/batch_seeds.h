// The seeds of fuzz_batch: lines with every field, right and wrong.
#pragma once

#include <string>
#include <vector>

namespace tandem::test {

inline std::vector<std::string> batch_seeds() {
  const auto line = [](const std::string& url, const std::string& body) {
    return R"({"custom_id": "r1", "method": "POST", "url": ")" + url + R"(", "body": {)" + body + "}}";
  };
  const std::string chat = "/v1/chat/completions";
  const std::string completions = "/v1/completions";
  std::vector<std::string> seeds = {
      line(
          chat,
          R"("model": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}])"),
      line(
          chat,
          R"("messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}])"),
      line(chat, R"("messages": [{"role": "assistant", "content": null, "tool_calls": []}], "tools": [{}])"),
      line(
          chat,
          R"("messages": [{"role": "developer", "content": "\u00e4\n"}], "logprobs": true, "top_logprobs": 20)"),
      line(chat, R"("messages": [{"role": "user", "content": ""}], "max_completion_tokens": 7, "seed": -1)"),
      line(chat, R"("messages": [{"role": "user"}], "response_format": {"type": "text"}, "stream": false)"),
      line(chat, R"("messages": [{"role": "user"}], "chat_template_kwargs": {"enable_thinking": false})"),
      line(completions,
           R"("prompt": "x", "max_tokens": 5, "temperature": 1.5, "top_p": 0.5, "echo": true, "suffix": "")"),
      line(completions, R"("prompt": ["x", "y"], "n": 2, "best_of": 2, "stop": ["a", "b"], "logprobs": 3)"),
      line(completions,
           R"("prompt": [1, 2, 3], "stop": "end", "logit_bias": {"5": -100, "6": 1e2}, "user": "u")"),
      line(completions,
           R"("prompt": [[1], [2, 3]], "frequency_penalty": 0.5, "presence_penalty": -2, "top_k": 40)"),
      line(
          completions,
          R"("prompt": "x", "min_p": 0.1, "repeat_penalty": 1.1, "ignore_eos": true, "seed": 18446744073709551615)"),
      line("/v1/embeddings", R"("input": "x")"),
      R"({"custom_id": "a", "custom_id": "b", "url": "/v1/completions"})",
      R"({"custom_id": {"custom_id": "a"}, "body": [[[[]]]]})",
      R"({"custom_id": "a", "method": "GET"})",
      R"([{"custom_id": "a"}])",
      "\"custom_id\"",
      "{\"custom_id\": \"\xFF\"}",
      "{\"custom_id\": \"\\ud800\\udc00\"}",
      std::string(100, '['),
      ""};
  return seeds;
}

}  // namespace tandem::test
