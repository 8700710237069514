#include "launch/batch/request.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "launch/batch/body_reader.h"
#include "launch/hash.h"
#include "runtime/text/utf8.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostStops = 64;
constexpr int64_t kMostTokens = int64_t{1} << 30;
constexpr double kMostBias = 100;
constexpr double kMostPenalty = 100;
constexpr double kMostTemperature = 100;

BatchFault line_fault(std::string code, std::string message) {
  return {.status = 0, .code = std::move(code), .message = std::move(message), .param = {}};
}

/// How deep the brackets of a JSON text go; what is in strings doesn't count.
int nesting_of(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

/// A message's content: a text, or a list of parts that are texts.
std::string content_text(const Json& content, const std::string& where) {
  if (content.is_null()) return {};
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) {
    fail_body(
        "messages",
        fmt::format("{}: content is {} where a text or a list of parts should be", where, kind_of(content)),
        "invalid_type");
  }
  std::string text;
  for (const Json& part : content) {
    const auto type = part.is_object() ? part.find("type") : part.end();
    if (!part.is_object() || type == part.end() || !type->is_string())
      fail_body("messages", where + ": a part of the content has no type", "invalid_type");
    if (*type != "text" && *type != "refusal") {
      fail_body(
          "messages",
          fmt::format("{}: the model reads text only, not {}", where, type->get<std::string>().substr(0, 40)),
          "unsupported_content");
    }
    const auto found = part.find(type->get<std::string>());
    if (found == part.end() || !found->is_string())
      fail_body("messages", where + ": a part of the content has no text", "invalid_type");
    text += found->get<std::string>();
  }
  return text;
}

Json read_messages(const BodyReader& body, const std::string& system) {
  const Json* messages = body.find("messages");
  if (messages == nullptr) fail_body("messages", "messages: missing", "missing_required_parameter");
  if (!messages->is_array() || messages->empty())
    fail_body("messages", "messages: not a list of one message at least", "invalid_type");
  Json out = Json::array();
  for (size_t i = 0; i < messages->size(); ++i) {
    const Json& message = (*messages)[i];
    const std::string where = fmt::format("messages[{}]", i);
    if (!message.is_object())
      fail_body("messages", fmt::format("{}: {} where an object should be", where, kind_of(message)),
                "invalid_type");
    const auto role = message.find("role");
    if (role == message.end() || !role->is_string() || role->get<std::string>().empty())
      fail_body("messages", where + ": it has no role", "invalid_type");
    if (i == 0 && !system.empty() && *role != "system" && *role != "developer")
      out.push_back({{"role", "system"}, {"content", system}});
    Json copy = message;
    // OpenAI's newer name for the system's voice, which no template knows.
    if (*role == "developer") copy["role"] = "system";
    // Beside calls no content is none, which templates tell from an empty text.
    const auto calls = message.find("tool_calls");
    const bool has_calls = calls != message.end() && calls->is_array() && !calls->empty();
    const Json content = message.value("content", Json());
    copy["content"] = content.is_null() && has_calls ? Json() : Json(content_text(content, where));
    out.push_back(std::move(copy));
  }
  return out;
}

/// "auto" or "none": no model is made to call a function.
std::string read_tool_choice(const BodyReader& body) {
  const Json* choice = body.find("tool_choice");
  if (choice == nullptr) return "auto";
  if (*choice != "auto" && *choice != "none")
    fail_body("tool_choice", "tool_choice: only \"auto\" and \"none\" are offered");
  return choice->get<std::string>();
}

Json read_template_variables(const BodyReader& body) {
  Json variables = Json::object();
  if (const Json* more = body.find("chat_template_kwargs")) {
    if (!more->is_object())
      fail_body("chat_template_kwargs", "chat_template_kwargs: not an object", "invalid_type");
    variables = *more;
  }
  const std::string choice = read_tool_choice(body);
  if (const Json* tools = body.find("tools")) {
    if (!tools->is_array()) fail_body("tools", "tools: not a list", "invalid_type");
    if (!tools->empty() && choice != "none") variables["tools"] = *tools;
  }
  return variables;
}

std::vector<int32_t> read_tokens(const Json& list) {
  std::vector<int32_t> tokens;
  for (const Json& token : list) {
    if (!token.is_number_integer() || token < 0 || token > kMostTokens)
      fail_body("prompt", "prompt: a list of tokens holds what is no token", "invalid_type");
    tokens.push_back(token.get<int32_t>());
  }
  return tokens;
}

std::vector<BatchPrompt> read_prompts(const BodyReader& body) {
  const Json* prompt = body.find("prompt");
  if (prompt == nullptr) fail_body("prompt", "prompt: missing", "missing_required_parameter");
  if (prompt->is_string()) return {prompt->get<std::string>()};
  if (!prompt->is_array() || prompt->empty()) {
    fail_body("prompt", "prompt: not a text, a list of texts, a list of tokens, or a list of those",
              "invalid_type");
  }
  if ((*prompt)[0].is_number()) return {read_tokens(*prompt)};
  if (prompt->size() > kMostPrompts)
    fail_body("prompt",
              fmt::format("prompt: {} prompts, at most {} are allowed", prompt->size(), kMostPrompts));
  std::vector<BatchPrompt> prompts;
  for (const Json& item : *prompt) {
    if (item.is_string()) {
      prompts.emplace_back(item.get<std::string>());
    } else if (item.is_array() && !item.empty()) {
      prompts.emplace_back(read_tokens(item));
    } else {
      fail_body("prompt", fmt::format("prompt: the list holds {} where a prompt should be", kind_of(item)),
                "invalid_type");
    }
  }
  return prompts;
}

void read_logit_bias(const BodyReader& body, SamplingParams& sampling) {
  const Json* biases = body.find("logit_bias");
  if (biases == nullptr) return;
  if (!biases->is_object())
    fail_body("logit_bias", "logit_bias: not an object of tokens and numbers", "invalid_type");
  sampling.bias.clear();
  for (const auto& [name, value] : biases->items()) {
    int32_t token = -1;
    const auto [end, status] = std::from_chars(name.data(), name.data() + name.size(), token);
    if (status != std::errc{} || end != name.data() + name.size() ||
        name != std::to_string(std::max(0, token)))
      fail_body("logit_bias", fmt::format("logit_bias: '{}' is no token", name.substr(0, 40)));
    if (!value.is_number())
      fail_body("logit_bias",
                fmt::format("logit_bias: token {} has {} where a number should be", token, kind_of(value)),
                "invalid_type");
    const auto bias = value.get<double>();
    if (!(std::abs(bias) <= kMostBias))
      fail_body("logit_bias", fmt::format("logit_bias: {} is not within -100 to 100", bias));
    sampling.bias.push_back({token, static_cast<float>(bias)});
  }
}

/// How many logprobs beside the chosen token's; −1: none at all. The two endpoints ask in different ways.
int32_t read_n_logprobs(const BodyReader& body, BatchEndpoint endpoint) {
  if (endpoint == BatchEndpoint::completions)
    return static_cast<int32_t>(body.integer("logprobs", -1, 0, kMostTopLogprobs));
  const auto n_top = static_cast<int32_t>(body.integer("top_logprobs", -1, 0, kMostTopLogprobs));
  if (body.boolean("logprobs", false)) return std::max(0, n_top);
  if (n_top > 0) fail_body("top_logprobs", "top_logprobs: only with logprobs set to true");
  return -1;
}

SamplingParams read_sampling(const BodyReader& body, BatchEndpoint endpoint, const std::string& custom_id,
                             const BatchDefaults& defaults) {
  SamplingParams p = defaults.sampling;
  const auto set = [&](float& target, const char* name, double low, double high) {
    target = static_cast<float>(body.number(name, target, low, high));
  };
  set(p.temperature, "temperature", 0, kMostTemperature);
  set(p.top_p, "top_p", 0, 1);
  set(p.min_p, "min_p", 0, 1);
  set(p.frequency_penalty, "frequency_penalty", -kMostPenalty, kMostPenalty);
  set(p.presence_penalty, "presence_penalty", -kMostPenalty, kMostPenalty);
  set(p.repeat_penalty, "repeat_penalty", 1e-3, 1e3);
  set(p.repeat_penalty, "repetition_penalty", 1e-3, 1e3);  // vLLM's name for it
  p.repeat_last_n = static_cast<int32_t>(body.integer("repeat_last_n", p.repeat_last_n, -1, kMostTokens));
  p.top_k = static_cast<int32_t>(std::max<int64_t>(0, body.integer("top_k", p.top_k, -1, kMostTokens)));
  p.n_logprobs = read_n_logprobs(body, endpoint);
  read_logit_bias(body, p);
  // Without a seed of its own a request has one that is a function of its name, so that a run repeats itself.
  p.seed = hash64(custom_id, defaults.sampling.seed);
  if (body.find("seed") != nullptr) {
    const Json& seed = *body.find("seed");
    if (!seed.is_number_integer())
      fail_body("seed", fmt::format("seed: {} where a whole number should be", kind_of(seed)),
                "invalid_type");
    p.seed = seed.is_number_unsigned() ? seed.get<uint64_t>() : static_cast<uint64_t>(seed.get<int64_t>());
  }
  return p;
}

/// What would constrain or extend an answer, in OpenAI's, vLLM's and llama.cpp's names.
constexpr std::array kNotOffered = {
    "functions",     "audio",          "web_search_options", "guided_json",     "guided_regex",
    "guided_choice", "guided_grammar", "structured_outputs", "grammar",         "json_schema",
    "min_tokens",    "stop_token_ids", "bad_words",          "use_beam_search", "allowed_token_ids"};

void refuse_what_changes_the_answer(const BodyReader& body, const BatchRequest& request) {
  if (body.boolean("stream", false)) fail_body("stream", "stream: a batch has no streams");
  if (body.integer("best_of", request.n_choices, 0, kMostChoices) > request.n_choices)
    fail_body("best_of", "best_of: more than n is not offered");
  if (!body.text("suffix", "").empty()) fail_body("suffix", "suffix: not offered");
  if (const Json* format = body.find("response_format")) {
    if (!format->is_object() || format->value("type", Json()) != "text")
      fail_body("response_format", "response_format: only {\"type\": \"text\"} is offered");
  }
  for (const char* name : kNotOffered) {
    const Json* value = body.find(name);
    if (value != nullptr && *value != false && *value != 0 && !value->empty())
      fail_body(name, fmt::format("{}: not offered", name));
  }
  if (const Json* call = body.find("function_call"); call != nullptr && *call != "none" && *call != "auto")
    fail_body("function_call", "function_call: only \"auto\" and \"none\" are offered");
  if (const Json* modalities = body.find("modalities");
      modalities != nullptr && *modalities != Json::array({"text"}))
    fail_body("modalities", "modalities: only [\"text\"] is offered");
  if (request.echo && request.sampling.n_logprobs >= 0) fail_body("echo", "echo: not together with logprobs");
}

BatchRequest read_body(const Json& json, BatchEndpoint endpoint, const std::string& custom_id,
                       const BatchDefaults& defaults) {
  const BodyReader body(json);
  BatchRequest request;
  request.endpoint = endpoint;
  request.model = body.text("model", defaults.model);
  request.n_choices = body.integer("n", 1, 1, kMostChoices);
  request.max_new_tokens = body.integer("max_tokens", defaults.max_new_tokens, 0, kMostTokens);
  if (endpoint == BatchEndpoint::chat) {
    request.max_new_tokens = body.integer("max_completion_tokens", request.max_new_tokens, 0, kMostTokens);
    request.messages = read_messages(body, defaults.system);
    request.template_variables = read_template_variables(body);
  } else {
    request.prompts = read_prompts(body);
    request.echo = body.boolean("echo", false);
  }
  request.stop = body.texts("stop", defaults.stop, kMostStops);
  request.ignore_eos = body.boolean("ignore_eos", defaults.ignore_eos);
  request.sampling = read_sampling(body, endpoint, custom_id, defaults);
  refuse_what_changes_the_answer(body, request);
  return request;
}

/// The request of an object whose custom_id is known.
std::variant<BatchFault, BatchRequest> read_request(const Json& line, const std::string& custom_id,
                                                    const BatchDefaults& defaults) {
  const Json method = line.value("method", Json("POST"));
  if (!method.is_string() || method != "POST")
    return line_fault("invalid_method", "method: only POST is offered");
  const Json url = line.value("url", Json());
  if (!url.is_string()) return line_fault("missing_url", "url: missing, or not a text");
  BatchEndpoint endpoint = BatchEndpoint::chat;
  if (url == "/v1/completions") {
    endpoint = BatchEndpoint::completions;
  } else if (url != "/v1/chat/completions") {
    return line_fault("unknown_url", fmt::format("url: '{}' is not /v1/chat/completions or /v1/completions",
                                                 url.get<std::string>().substr(0, 200)));
  }
  const auto body = line.find("body");
  if (body == line.end() || !body->is_object())
    return line_fault("missing_body", "body: missing, or not an object");
  try {
    return read_body(*body, endpoint, custom_id, defaults);
  } catch (const BatchFault& fault) {
    return fault;
  }
}

}  // namespace

uint64_t choice_seed(uint64_t seed, int64_t index) {
  return index == 0 ? seed : hash64({reinterpret_cast<const char*>(&index), sizeof(index)}, seed);
}

BatchLine parse_batch_line(std::string_view text, const BatchDefaults& defaults) {
  if (valid_utf8_prefix(text) != text.size()) {
    return {{},
            line_fault("invalid_utf8", fmt::format("the line is not UTF-8 from its byte {} on",
                                                   valid_utf8_prefix(text) + 1))};
  }
  if (nesting_of(text) > kMostNesting) {
    return {{}, line_fault("invalid_json", fmt::format("the JSON is nested deeper than {}", kMostNesting))};
  }
  const Json line = Json::parse(text, nullptr, false);
  if (line.is_discarded()) return {{}, line_fault("invalid_json", "the line is not JSON")};
  if (!line.is_object()) return {{}, line_fault("invalid_json", "the line is not a JSON object")};
  const auto id = line.find("custom_id");
  if (id == line.end()) return {{}, line_fault("missing_custom_id", "custom_id: missing")};
  if (!id->is_string() || id->get<std::string>().empty())
    return {{}, line_fault("invalid_custom_id", "custom_id: not a text, or an empty one")};
  auto custom_id = id->get<std::string>();
  if (custom_id.size() > kMostCustomIdBytes) {
    return {
        {},
        line_fault("invalid_custom_id", fmt::format("custom_id: longer than {} bytes", kMostCustomIdBytes))};
  }
  auto what = read_request(line, custom_id, defaults);
  return {std::move(custom_id), std::move(what)};
}

BatchLine prompt_line(std::string_view text, std::string custom_id, BatchEndpoint endpoint,
                      const BatchDefaults& defaults) {
  if (valid_utf8_prefix(text) != text.size()) {
    return {std::move(custom_id),
            line_fault("invalid_utf8", fmt::format("the line is not UTF-8 from its byte {} on",
                                                   valid_utf8_prefix(text) + 1))};
  }
  Json body = Json::object();
  if (endpoint == BatchEndpoint::completions) {
    body["prompt"] = text;
  } else {
    body["messages"] = Json::array({{{"role", "user"}, {"content", text}}});
  }
  BatchRequest request = read_body(body, endpoint, custom_id, defaults);
  return {std::move(custom_id), std::move(request)};
}

std::optional<Json> with_parsed_arguments(const Json& messages) {
  std::optional<Json> parsed;
  for (size_t i = 0; i < messages.size(); ++i) {
    const auto calls = messages[i].find("tool_calls");
    if (calls == messages[i].end() || !calls->is_array()) continue;
    for (size_t c = 0; c < calls->size(); ++c) {
      const Json& call = (*calls)[c];
      const Json function = call.is_object() ? call.value("function", Json()) : Json();
      const Json text = function.is_object() ? function.value("arguments", Json()) : Json();
      if (!text.is_string() || nesting_of(text.get_ref<const std::string&>()) > kMostNesting) continue;
      Json arguments = Json::parse(text.get_ref<const std::string&>(), nullptr, false);
      if (!arguments.is_object()) continue;
      if (!parsed) parsed = messages;
      (*parsed)[i]["tool_calls"][c]["function"]["arguments"] = std::move(arguments);
    }
  }
  return parsed;
}

}  // namespace tandem
