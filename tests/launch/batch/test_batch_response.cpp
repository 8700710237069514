// Result lines against what OpenAI's batch service is known to write, field by field.
#include "launch/batch/response.h"

#include <gtest/gtest.h>

#include <cmath>
#include <regex>

#include "launch/progress.h"

namespace tandem::test {
namespace {

using Json = nlohmann::ordered_json;

const BatchIdentity kIdentity{{7, 8}, 1234};

/// Tokens of a vocabulary of letters; 0 is hidden in texts, 1 and 2 are the halves of an ä.
std::string token_bytes(int32_t token, bool show_special) {
  if (token == 0) return show_special ? "<|end|>" : "";
  if (token == 1) return "\xC3";
  if (token == 2) return "\xA4";
  return std::string(1, static_cast<char>(token));
}

BatchRequest request(BatchEndpoint endpoint, int32_t n_logprobs) {
  BatchRequest r;
  r.endpoint = endpoint;
  r.model = "m";
  r.sampling.n_logprobs = n_logprobs;
  return r;
}

BatchChoice choice_of(const std::string& text, const std::vector<int32_t>& tokens) {
  BatchChoice choice;
  choice.text = text;
  choice.tokens = tokens;
  choice.n_new = static_cast<int64_t>(tokens.size());
  double logprob = -0.5;
  size_t offset = 0;
  for (const int32_t token : tokens) {
    choice.offsets.push_back(offset);
    // A character is there when its last byte is.
    if (token != 1) offset += token == 2 ? 2 : token_bytes(token, false).size();
    choice.logprobs.push_back({logprob, {{token, logprob}, {0, -2.0}}});
    logprob -= 0.25;
  }
  return choice;
}

Json without_ids(const std::string& line, std::vector<std::string>* ids = nullptr) {
  static const std::regex id("\"(batch_req_|req_|chatcmpl-|cmpl-)([0-9a-f]{24})\"");
  if (ids != nullptr) {
    for (std::sregex_iterator i(line.begin(), line.end(), id), end; i != end; ++i) ids->push_back((*i)[2]);
  }
  return Json::parse(std::regex_replace(line, id, "\"$1\""));
}

TEST(BatchResponse, ChatAnswersHaveTheServicesShape) {
  BatchChoice first = choice_of("Hi", {'H', 'i'});
  BatchChoice second = choice_of("H", {'H'});
  second.reached_length = true;
  const std::string line =
      answer_line(kIdentity, 3, "a \"b\"", request(BatchEndpoint::chat, -1), 5, {first, second}, token_bytes);
  std::vector<std::string> ids;
  EXPECT_EQ(
      without_ids(line, &ids).dump(),
      R"({"id":"batch_req_","custom_id":"a \"b\"","response":{"status_code":200,"request_id":"req_","body":)"
      R"({"id":"chatcmpl-","object":"chat.completion","created":1234,"model":"m","choices":[{"index":0,)"
      R"("message":{"role":"assistant","content":"Hi","refusal":null},"logprobs":null,"finish_reason":"stop"},)"
      R"({"index":1,"message":{"role":"assistant","content":"H","refusal":null},"logprobs":null,)"
      R"("finish_reason":"length"}],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}},)"
      R"("error":null})");
  ASSERT_EQ(ids.size(), 3u);
  EXPECT_NE(ids[0], ids[1]);
  EXPECT_NE(ids[1], ids[2]);
  EXPECT_EQ(line.find('\n'), std::string::npos);
}

TEST(BatchResponse, CompletionsHaveTheServicesShape) {
  const std::string line = answer_line(kIdentity, 3, "a", request(BatchEndpoint::completions, -1), 5,
                                       {choice_of("x\n", {'x', '\n'})}, token_bytes);
  EXPECT_EQ(without_ids(line)["response"]["body"].dump(),
            R"({"id":"cmpl-","object":"text_completion","created":1234,"model":"m","choices":[{"index":0,)"
            R"("text":"x\n","logprobs":null,"finish_reason":"stop"}],)"
            R"("usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}})");
}

TEST(BatchResponse, LogprobsOfChats) {
  const std::string line = answer_line(kIdentity, 3, "a", request(BatchEndpoint::chat, 2), 5,
                                       {choice_of("H\xC3\xA4", {'H', 1, 2})}, token_bytes);
  const Json logprobs = Json::parse(line)["response"]["body"]["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["refusal"], nullptr);
  ASSERT_EQ(logprobs["content"].size(), 3u);
  EXPECT_EQ(
      logprobs["content"][0].dump(),
      R"({"token":"H","logprob":-0.5,"bytes":[72],"top_logprobs":[{"token":"H","logprob":-0.5,"bytes":[72]},)"
      R"({"token":"<|end|>","logprob":-2.0,"bytes":[60,124,101,110,100,124,62]}]})");
  EXPECT_EQ(logprobs["content"][1]["token"], "\\xc3");
  EXPECT_EQ(logprobs["content"][1]["bytes"], Json::parse("[195]"));
  EXPECT_EQ(logprobs["content"][2]["logprob"], -1.0);
}

TEST(BatchResponse, LogprobsOfCompletions) {
  BatchChoice choice = choice_of("H\xC3\xA4x", {'H', 1, 2, 'x'});
  const std::string line =
      answer_line(kIdentity, 3, "a", request(BatchEndpoint::completions, 2), 5, {choice}, token_bytes);
  EXPECT_EQ(Json::parse(line)["response"]["body"]["choices"][0]["logprobs"].dump(),
            R"({"tokens":["H","bytes:\\xc3","bytes:\\xa4","x"],"token_logprobs":[-0.5,-0.75,-1.0,-1.25],)"
            R"("top_logprobs":[{"H":-0.5,"<|end|>":-2.0},{"bytes:\\xc3":-0.75,"<|end|>":-2.0},)"
            R"({"bytes:\\xa4":-1.0,"<|end|>":-2.0},{"x":-1.25,"<|end|>":-2.0}],"text_offset":[0,1,1,2]})");
}

TEST(BatchResponse, LogprobsEndWhereAStopTextCutTheAnswer) {
  const auto n_tokens = [](const BatchChoice& one) {
    const std::string line =
        answer_line(kIdentity, 3, "a", request(BatchEndpoint::completions, 0), 5, {one}, token_bytes);
    return Json::parse(line)["response"]["body"]["choices"][0]["logprobs"]["tokens"].size();
  };
  BatchChoice choice = choice_of("ab", {'a', 'b', 'c', 'd'});
  choice.cut_by_stop = true;
  EXPECT_EQ(n_tokens(choice), 2u);
  choice.cut_by_stop = false;
  EXPECT_EQ(n_tokens(choice), 4u);
  choice = choice_of("", {'a'});
  choice.cut_by_stop = true;
  EXPECT_EQ(n_tokens(choice), 0u);
}

TEST(BatchResponse, FaultsSayWhatAndWhere) {
  EXPECT_EQ(without_ids(fault_line(kIdentity, 9, "", {0, "invalid_json", "the line is not JSON", ""})).dump(),
            R"({"id":"batch_req_","custom_id":null,"response":null,)"
            R"("error":{"code":"invalid_json","message":"the line is not JSON","line":9}})");
  EXPECT_EQ(
      without_ids(fault_line(kIdentity, 9, "a", {400, "invalid_type", "n: wrong", "n"})).dump(),
      R"({"id":"batch_req_","custom_id":"a","response":{"status_code":400,"request_id":"req_","body":)"
      R"({"error":{"message":"n: wrong","type":"invalid_request_error","param":"n","code":"invalid_type"}}},)"
      R"("error":null})");
}

TEST(BatchResponse, LinesAreKnownByTheirBeginningAndKind) {
  const std::string answer =
      answer_line(kIdentity, 3, ",\"response\":{\"status_code\":200,", request(BatchEndpoint::chat, -1), 5,
                  {choice_of("x", {'x'})}, token_bytes);
  const std::string fault = fault_line(kIdentity, 3, ",\"response\":{\"status_code\":200,",
                                       {400, "c", "\"response\":{\"status_code\":200,", ""});
  EXPECT_TRUE(answer.starts_with(line_beginning(kIdentity, 3)));
  EXPECT_TRUE(fault.starts_with(line_beginning(kIdentity, 3)));
  EXPECT_NE(line_beginning(kIdentity, 3), line_beginning(kIdentity, 4));
  EXPECT_NE(line_beginning(kIdentity, 3), line_beginning({{7, 9}, 1234}, 3));
  EXPECT_TRUE(is_answer(answer));
  EXPECT_FALSE(is_answer(fault));
}

TEST(BatchBar, CountsThisRunsSpeedOnly) {
  EXPECT_EQ(batch_bar_text(0, 0, 10, 0, 0.0, "lines"), "[" + std::string(30, ' ') + "] 0/10 lines");
  EXPECT_EQ(batch_bar_text(5, 3, 10, 100, 4.0, "lines"),
            "[" + std::string(15, '#') + std::string(15, ' ') + "] 5/10 lines, 25.0 tokens/s, 0:10 left");
  EXPECT_EQ(batch_bar_text(10, 3, 10, 100, 4.0, "lines"),
            "[" + std::string(30, '#') + "] 10/10 lines, 25.0 tokens/s");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(3 * 3600 + 62), "3:01:02");
  EXPECT_EQ(format_duration(86400 * 2 + 3600 * 3), "2 d 3 h");
}

}  // namespace
}  // namespace tandem::test
