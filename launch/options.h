// The options that several subcommands share, with the names that llama.cpp's users know. Each group is a
// struct of values (its initialisers are the defaults) and a function that adds its flags to a parser. Used
// by launch/commands.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/option_parser.h"

namespace tandem {

/// Which model, on what, in how many pieces.
struct ModelOptions {
  std::string model;             ///< -m: path of a GGUF file (the first of a split one)
  std::string backend = "auto";  ///< --backend auto|cpu|cuda
  std::string comm = "auto";     ///< --comm auto|peer|nccl|mpi; several with commas, see below
  bool allow_share = false;      ///< --allow-share: ranks may share a GPU
  double mem_fraction = 0.95;    ///< --mem-fraction: of a GPU's memory that may be used
  std::string graphs = "on";     ///< --graphs on|off: steps of few tokens as CUDA graphs
  std::string tune = "auto";     ///< --tune auto|off|again: measure by which kernels a GPU multiplies
  int verify_ranks = 0;          ///< --verify-ranks: steps between comparisons of the ranks' tokens; 0: none
  bool deterministic = false;  ///< --deterministic: the same bits by every --comm and --graphs, in any batch
  int n_threads = 0;           ///< -t: threads of each rank; 0: its share of the cores
  int n_ctx = 0;               ///< -c: positions of a sequence; 0: the model's own, at most 4096
  int n_batch = 0;             ///< -b: prompt tokens in one step; 0: as batch_tokens_of() says
  std::vector<double> split;   ///< --split: relative shares of the ranks; empty: equal
  std::string cache_type_k = "f16";  ///< -ctk f16|f32|q8_0|q4_0
  std::string cache_type_v = "f16";  ///< -ctv f16|f32|q8_0|q4_0
  std::string progress = "auto";     ///< --progress on|off|auto: the bar while loading

  bool operator==(const ModelOptions&) const = default;
};
/// `several_comms`: --comm takes a list, for a command that compares them.
void add_model_options(OptionParser& parser, ModelOptions& options, bool several_comms = false);
/// The ways that --comm names, in its order.
std::vector<std::string> comm_list(const std::string& comm);
/// --split alone, for commands that only look at a model.
void add_split_option(OptionParser& parser, ModelOptions& options);
void add_cache_options(OptionParser& parser, ModelOptions& options);
/// Throws Error{usage} unless a model is named.
void require_model(const OptionParser& parser, const ModelOptions& options);
/// Throws Error{usage} where --split names another number of ranks than there are.
void check_split(const std::vector<double>& split, int n_ranks);

/// How a token is chosen.
struct SamplingOptions {
  std::optional<uint64_t> seed;  ///< -s: absent (or -1): rank 0 draws one, and says which
  double temperature = 0.8;      ///< --temp: 0 is greedy
  int top_k = 40;                ///< --top-k: 0 is all
  double top_p = 0.95;           ///< --top-p: 1 is all
  double min_p = 0.05;           ///< --min-p: 0 is all
  double repeat_penalty = 1.0;   ///< --repeat-penalty: 1 is none
  int repeat_last_n = 64;        ///< --repeat-last-n: tokens looked back; 0 none, -1 the whole context
  double frequency_penalty = 0;  ///< --frequency-penalty
  double presence_penalty = 0;   ///< --presence-penalty
  bool ignore_eos = false;       ///< --ignore-eos: goes on after an end-of-text token
  std::vector<std::pair<int, double>>
      logit_bias;  ///< --logit-bias ID+X or ID-X: token, what is added (-inf bans)
};
/// fixed: 0 without --seed, as a run that is repeated shall give the same.
enum class Seed : uint8_t { drawn, fixed };
void add_sampling_options(OptionParser& parser, SamplingOptions& options, Seed seed_is = Seed::drawn);

/// What text goes in and how much comes out.
struct PromptOptions {
  std::string prompt;             ///< -p
  std::string file;               ///< -f: the prompt is this file's content
  int n_predict = -1;             ///< -n: tokens to generate; -1: until the end of text or of the context
  std::vector<std::string> stop;  ///< --stop: generation ends before any of these
};
void add_prompt_options(OptionParser& parser, PromptOptions& options);
/// -p and -f alone, for commands that generate nothing.
void add_text_options(OptionParser& parser, PromptOptions& options);
/// A file's content. Throws Error{io} where it can't be read.
std::string file_text(const std::string& path);
/// Throws Error{usage} unless one of -p and -f was given.
void require_text(OptionParser& parser);
/// -p or the content of -f (one trailing newline is dropped, as llama.cpp does). Throws Error{usage} where
/// both or none is given, Error{io} where the file can't be read.
std::string prompt_text(OptionParser& parser, const PromptOptions& options);

}  // namespace tandem
