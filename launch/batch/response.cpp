#include "launch/batch/response.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/text/utf8.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

/// 24 digits that stand for this line of this run; `kind` tells ids of one line apart.
std::string line_hash(const BatchIdentity& identity, uint64_t line_number, std::string_view kind) {
  Hasher hasher;
  hasher.add_number(identity.run.high);
  hasher.add_number(identity.run.low);
  hasher.add_number(line_number);
  hasher.add_field(kind);
  return hasher.result().hex().substr(0, 24);
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string result_line(const BatchIdentity& identity, uint64_t line_number, const std::string& custom_id,
                        const Json& response, const Json& error) {
  Json line;
  line["custom_id"] = custom_id.empty() ? Json(nullptr) : Json(custom_id);
  line["response"] = response;
  line["error"] = error;
  return line_beginning(identity, line_number) + dump(line).substr(1);
}

Json response_object(const BatchIdentity& identity, uint64_t line_number, int status, Json body) {
  Json response;
  response["status_code"] = status;
  response["request_id"] = "req_" + line_hash(identity, line_number, "request");
  response["body"] = std::move(body);
  return response;
}

/// Seven decimals: what the sums behind it carry.
double rounded(double logprob) {
  return std::round(logprob * 1e7) / 1e7 + 0.0;  // no -0
}

/// A token as text; where its bytes are no text by themselves, they are written out.
std::string token_name(const std::string& bytes, std::string_view head) {
  if (valid_utf8_prefix(bytes) == bytes.size()) return bytes;
  std::string name(head);
  for (const char c : bytes) name += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return name;
}

Json bytes_of(const std::string& bytes) {
  Json list = Json::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return list;
}

int64_t n_characters(std::string_view text) {
  int64_t n = 0;
  for (const char c : text) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  return n;
}

/// How many of a choice's tokens begin within its text: a stop text cuts off what it came from.
size_t n_shown_tokens(const BatchChoice& choice) {
  if (!choice.cut_by_stop) return choice.tokens.size();
  const auto end = std::lower_bound(choice.offsets.begin(), choice.offsets.end(), choice.text.size());
  return static_cast<size_t>(end - choice.offsets.begin());
}

Json chat_logprobs(const BatchChoice& choice, const TokenBytes& token_bytes) {
  const auto entry = [&](int32_t token, double logprob) {
    const std::string bytes = token_bytes(token, true);
    Json out;
    out["token"] = token_name(bytes, "");
    out["logprob"] = rounded(logprob);
    out["bytes"] = bytes_of(bytes);
    return out;
  };
  Json content = Json::array();
  for (size_t i = 0; i < n_shown_tokens(choice); ++i) {
    Json item = entry(choice.tokens[i], choice.logprobs[i].chosen);
    item["top_logprobs"] = Json::array();
    for (const TokenLogprob& top : choice.logprobs[i].top)
      item["top_logprobs"].push_back(entry(top.token, top.logprob));
    content.push_back(std::move(item));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json completion_logprobs(const BatchChoice& choice, const TokenBytes& token_bytes) {
  Json out = {{"tokens", Json::array()},
              {"token_logprobs", Json::array()},
              {"top_logprobs", Json::array()},
              {"text_offset", Json::array()}};
  for (size_t i = 0; i < n_shown_tokens(choice); ++i) {
    const std::string chosen = token_name(token_bytes(choice.tokens[i], true), "bytes:");
    out["tokens"].push_back(chosen);
    out["token_logprobs"].push_back(rounded(choice.logprobs[i].chosen));
    Json top = Json::object();
    for (const TokenLogprob& other : choice.logprobs[i].top) {
      // Two tokens may read the same: the likelier one keeps the name.
      const std::string name = token_name(token_bytes(other.token, true), "bytes:");
      if (!top.contains(name)) top[name] = rounded(other.logprob);
    }
    // The chosen one is always among them.
    if (!top.contains(chosen)) top[chosen] = rounded(choice.logprobs[i].chosen);
    out["top_logprobs"].push_back(std::move(top));
    out["text_offset"].push_back(n_characters(std::string_view(choice.text).substr(0, choice.offsets[i])));
  }
  return out;
}

Json choice_object(const BatchRequest& request, size_t index, const BatchChoice& choice,
                   const TokenBytes& token_bytes) {
  const bool is_chat = request.endpoint == BatchEndpoint::chat;
  Json logprobs = nullptr;
  if (request.sampling.n_logprobs >= 0)
    logprobs = is_chat ? chat_logprobs(choice, token_bytes) : completion_logprobs(choice, token_bytes);
  Json out;
  out["index"] = index;
  if (is_chat) {
    out["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
  } else {
    out["text"] = choice.text;
  }
  out["logprobs"] = std::move(logprobs);
  out["finish_reason"] = choice.reached_length ? "length" : "stop";
  return out;
}

}  // namespace

std::string line_beginning(const BatchIdentity& identity, uint64_t line_number) {
  return fmt::format("{{\"id\":\"batch_req_{}\",", line_hash(identity, line_number, "line"));
}

bool is_answer(std::string_view line) {
  // A quote within a JSON text is written \", so this can only be the key itself.
  return line.find(",\"response\":{\"status_code\":200,") != std::string_view::npos;
}

std::string answer_line(const BatchIdentity& identity, uint64_t line_number, const std::string& custom_id,
                        const BatchRequest& request, int64_t n_prompt_tokens,
                        const std::vector<BatchChoice>& choices, const TokenBytes& token_bytes) {
  const bool is_chat = request.endpoint == BatchEndpoint::chat;
  Json body;
  body["id"] = (is_chat ? "chatcmpl-" : "cmpl-") + line_hash(identity, line_number, "body");
  body["object"] = is_chat ? "chat.completion" : "text_completion";
  body["created"] = identity.created;
  body["model"] = request.model;
  body["choices"] = Json::array();
  int64_t n_new = 0;
  for (size_t i = 0; i < choices.size(); ++i) {
    body["choices"].push_back(choice_object(request, i, choices[i], token_bytes));
    n_new += choices[i].n_new;
  }
  body["usage"] = {{"prompt_tokens", n_prompt_tokens},
                   {"completion_tokens", n_new},
                   {"total_tokens", n_prompt_tokens + n_new}};
  return result_line(identity, line_number, custom_id,
                     response_object(identity, line_number, 200, std::move(body)), nullptr);
}

std::string fault_line(const BatchIdentity& identity, uint64_t line_number, const std::string& custom_id,
                       const BatchFault& fault) {
  if (fault.status == 0) {
    const Json error = {{"code", fault.code}, {"message", fault.message}, {"line", line_number}};
    return result_line(identity, line_number, custom_id, nullptr, error);
  }
  Json body;
  body["error"] = {{"message", fault.message},
                   {"type", "invalid_request_error"},
                   {"param", fault.param.empty() ? Json(nullptr) : Json(fault.param)},
                   {"code", fault.code}};
  return result_line(identity, line_number, custom_id,
                     response_object(identity, line_number, fault.status, std::move(body)), nullptr);
}

}  // namespace tandem
