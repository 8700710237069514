#include "launch/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>

#include "ops/core/error.h"
#include "ops/variants.h"

namespace tandem {
namespace {

constexpr int kMostThreads = 4096;
constexpr int kMostPositions = 1 << 27;
constexpr int kMostBatch = 1 << 20;
constexpr int kMostTokens = 1 << 30;
constexpr int kLargestToken = (1 << 30) - 1;

/// The whole of `text` as a finite number or an infinity; NaN where it is none.
double number_of(std::string_view text) {
  double value = 0;
  if (!text.empty() && text[0] == '+') text.remove_prefix(1);
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  return status == std::errc{} && end == text.data() + text.size() ? value : std::nan("");
}

void read_split(const OptionParser& parser, const std::string& text, const std::string& origin,
                std::vector<double>& split) {
  split.clear();
  double sum = 0;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const double share = number_of(std::string_view(text).substr(begin, end - begin));
    if (!std::isfinite(share) || share < 0 || share > 1e6) {
      parser.fail_value(origin, text, "not a list of shares such as 3,1 (each from 0 to 1e6)");
    }
    split.push_back(share);
    sum += share;
    begin = end + 1;
  }
  if (sum <= 0) parser.fail_value(origin, text, "at least one share must be above 0");
}

void read_bias(const OptionParser& parser, const std::string& text, const std::string& origin,
               std::vector<std::pair<int, double>>& biases) {
  const size_t sign = text.find_first_of("+-=");
  int token = 0;
  const char* const id_end = text.data() + std::min(sign, text.size());
  const auto [end, status] = std::from_chars(text.data(), id_end, token);
  if (sign == std::string::npos || status != std::errc{} || end != id_end || token < 0 ||
      token > kLargestToken) {
    parser.fail_value(origin, text, "not TOKEN+BIAS or TOKEN-BIAS, such as 15043+1 or 29905-inf");
  }
  const double bias = number_of(std::string_view(text).substr(text[sign] == '=' ? sign + 1 : sign));
  if (std::isnan(bias) || bias > 1e6 || (bias < -1e6 && !std::isinf(bias))) {
    parser.fail_value(origin, text, "the bias is not within -1e6 to 1e6, or -inf");
  }
  biases.emplace_back(token, bias);
}

const std::vector<std::string> kComms = {"auto", "peer", "nccl", "mpi"};

void add_comm_option(OptionParser& parser, ModelOptions& options, bool several) {
  const std::string help = "how ranks add up their partial sums";
  if (!several) {
    parser.add_choice("comm", options.comm, kComms, help);
    return;
  }
  parser.add_custom("comm", "A,B,…", help + " on GPUs: auto, peer, nccl, mpi; a list compares them",
                    options.comm, false,
                    [&parser, &options](const std::string& text, const std::string& origin) {
                      for (const std::string& comm : comm_list(text)) {
                        if (std::find(kComms.begin(), kComms.end(), comm) == kComms.end())
                          parser.fail_value(origin, text, "not a list of auto, peer, nccl, mpi");
                      }
                      options.comm = text;
                    });
}

}  // namespace

void add_split_option(OptionParser& parser, ModelOptions& options) {
  parser.add_custom("split", "A,B,…", "relative shares of the ranks", "equal", false,
                    [&parser, &options](const std::string& text, const std::string& origin) {
                      read_split(parser, text, origin, options.split);
                    });
}

std::vector<std::string> comm_list(const std::string& comm) {
  std::vector<std::string> list;
  for (size_t begin = 0; begin <= comm.size();) {
    const size_t end = std::min(comm.find(',', begin), comm.size());
    list.push_back(comm.substr(begin, end - begin));
    begin = end + 1;
  }
  return list;
}

void add_cache_options(OptionParser& parser, ModelOptions& options) {
  const std::vector<std::string> names(kCacheTypeNames.begin(), kCacheTypeNames.end());
  parser.add_choice("cache-type-k,ctk", options.cache_type_k, names,
                    "type of the cached keys; q8_0 and q4_0 take 8.5 and 4.5 bits a value");
  parser.add_choice("cache-type-v,ctv", options.cache_type_v, names,
                    "type of the cached values; as the keys'");
}

void add_model_options(OptionParser& parser, ModelOptions& options, bool several_comms) {
  parser.add_text("model,m", options.model, "FILE", "the model, a GGUF file (the first part of a split one)");
  parser.add_choice("backend", options.backend, {"auto", "cpu", "cuda"}, "what computes");
  add_comm_option(parser, options, several_comms);
  parser.add_flag("allow-share", options.allow_share, "ranks may share a GPU");
  parser.add_number("mem-fraction", options.mem_fraction, 0.01, 1,
                    "share of a GPU's memory that may be used");
  parser.add_choice("graphs", options.graphs, {"on", "off"}, "steps of few tokens as CUDA graphs");
  parser.add_choice("tune", options.tune, {"auto", "off", "again"},
                    "GPUs: kernels by number of tokens as once measured and kept; off: as built in");
  parser.add_flag(
      "deterministic", options.deterministic,
      "GPUs: one rank count gives the same bits by every --comm, with graphs or without, whatever "
      "else is computed");
  parser.add_integer("threads,t", options.n_threads, 0, kMostThreads,
                     "threads of each rank; 0: its share of the cores");
  parser.add_integer("ctx-size,c", options.n_ctx, 0, kMostPositions,
                     "positions of a sequence; 0: as many as the model was trained on, at most 4096");
  parser.add_integer("batch-size,b", options.n_batch, 0, kMostBatch,
                     "prompt tokens in one step; 0: 512 on CPUs, 2048 on GPUs");
  add_split_option(parser, options);
  add_cache_options(parser, options);
  parser.add_integer("verify-ranks", options.verify_ranks, 0, kMostTokens,
                     "compare the tokens of all ranks every so many steps; 0: never");
  parser.add_choice("progress", options.progress, {"auto", "on", "off"}, "a bar while loading");
}

void require_model(const OptionParser& parser, const ModelOptions& options) {
  if (options.model.empty()) parser.fail("no model: give -m FILE");
}

void check_split(const std::vector<double>& split, int n_ranks) {
  const size_t n_shares = split.size();
  if (n_shares == 0 || n_shares == static_cast<size_t>(n_ranks)) return;
  throw Error(ExitCode::usage,
              fmt::format("--split names {} shares, but there are {} ranks", n_shares, n_ranks),
              "give one share a rank");
}

void add_sampling_options(OptionParser& parser, SamplingOptions& options, Seed seed_is) {
  const bool fixed = seed_is == Seed::fixed;
  parser.add_custom(
      "seed,s", "N",
      fixed ? "what requests without a seed make theirs from, with their custom_id"
            : "seed of the random numbers; -1: a new one",
      fixed ? "0" : "-1", false,
      [&parser, &options, fixed](const std::string& text, const std::string& origin) {
        uint64_t seed = 0;
        const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), seed);
        options.seed.reset();
        if (text == "-1" && !fixed) return;
        if (status != std::errc{} || end != text.data() + text.size()) {
          parser.fail_value(origin, text,
                            fmt::format("not {}a whole number below 2^64", fixed ? "" : "-1 or "));
        }
        options.seed = seed;
      });
  if (fixed) options.seed = 0;
  parser.add_number("temp", options.temperature, 0, 1e3, "temperature; 0: always the likeliest token");
  parser.add_integer("top-k", options.top_k, 0, kMostTokens, "keep the k likeliest tokens; 0: all");
  parser.add_number("top-p", options.top_p, 0, 1,
                    "keep the likeliest tokens that reach this probability; 1: all");
  parser.add_number("min-p", options.min_p, 0, 1, "keep tokens this likely beside the likeliest; 0: all");
  parser.add_number("repeat-penalty", options.repeat_penalty, 1e-3, 1e3,
                    "divides the logits of repeated tokens; 1: off");
  parser.add_integer("repeat-last-n", options.repeat_last_n, -1, kMostTokens,
                     "how far back the penalties look; 0: off, -1: all");
  parser.add_number("frequency-penalty", options.frequency_penalty, -1e3, 1e3,
                    "taken off a logit for each repetition");
  parser.add_number("presence-penalty", options.presence_penalty, -1e3, 1e3,
                    "taken off a logit once repeated");
  parser.add_flag("ignore-eos", options.ignore_eos, "go on after an end-of-text token");
  parser.add_custom("logit-bias,l", "ID+X", "add X to a token's logit, ID-inf bans it (repeatable)", "", true,
                    [&parser, &options](const std::string& text, const std::string& origin) {
                      read_bias(parser, text, origin, options.logit_bias);
                    });
}

void add_text_options(OptionParser& parser, PromptOptions& options) {
  parser.add_text("prompt,p", options.prompt, "TEXT", "the text");
  parser.add_text("file,f", options.file, "FILE", "the text is this file's content");
  parser.add_alternatives({"prompt", "file"});
}

void add_prompt_options(OptionParser& parser, PromptOptions& options) {
  add_text_options(parser, options);
  parser.add_integer("n-predict,n", options.n_predict, -1, kMostTokens,
                     "tokens to generate; -1: until the text or the context ends");
  parser.add_custom("stop,r", "TEXT", "end before this text (repeatable)", "", true,
                    [&parser, &options](const std::string& text, const std::string& origin) {
                      if (text.empty()) parser.fail_value(origin, text, "an empty stop text");
                      options.stop.push_back(text);
                    });
}

std::string file_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  std::array<char, 65536> chunk;
  // By read(): an iterator over the buffer would throw ios_base::failure where reading fails.
  while (file.read(chunk.data(), chunk.size()), file.gcount() > 0) {
    text.append(chunk.data(), static_cast<size_t>(file.gcount()));
  }
  if (!file.is_open() || file.bad())
    throw Error(ExitCode::io, fmt::format("{}: {}", path, std::strerror(errno)));
  return text;
}

void require_text(OptionParser& parser) {
  if (parser.given("file") == parser.given("prompt")) parser.fail("give either -p TEXT or -f FILE");
}

std::string prompt_text(OptionParser& parser, const PromptOptions& options) {
  require_text(parser);
  if (!parser.given("file")) return options.prompt;
  std::string text = file_text(options.file);
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

}  // namespace tandem
