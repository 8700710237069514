#include "runtime/text/pretokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

namespace tandem {
namespace {

// The names that files carry. Where two names differ in a flag only, both are here.
constexpr auto kSpecs = std::to_array<PreTokenizerSpec>({
    {"default", WordPattern::unnamed},
    {"llama-bpe", WordPattern::llama3, true, true},
    {"llama3", WordPattern::llama3, true, true},
    {"llama-v3", WordPattern::llama3, true, true},
    {"falcon3", WordPattern::llama3, true, true},
    {"falcon-h1", WordPattern::llama3, true, true},
    {"pixtral", WordPattern::llama3, true, true},
    {"midm-2.0", WordPattern::llama3, true, true},
    {"lfm2", WordPattern::llama3, true, true},
    {"dbrx", WordPattern::llama3},
    {"smaug-bpe", WordPattern::llama3},
    {"chatglm-bpe", WordPattern::llama3},
    {"glm4", WordPattern::llama3, true},
    {"qwen2", WordPattern::qwen2},
    {"deepseek-r1-qwen", WordPattern::qwen2},
    {"stablelm2", WordPattern::qwen2},
    {"hunyuan", WordPattern::qwen2},
    {"megrez", WordPattern::qwen2},
    {"solar-open", WordPattern::qwen2},
    {"grok-2", WordPattern::qwen2},
    {"kormo", WordPattern::qwen2},
    {"qwen35", WordPattern::qwen35},
    {"gpt-2", WordPattern::gpt2},
    {"phi-2", WordPattern::gpt2},
    {"mpt", WordPattern::gpt2},
    {"olmo", WordPattern::gpt2},
    {"jais", WordPattern::gpt2},
    {"trillion", WordPattern::gpt2},
    {"exaone4", WordPattern::gpt2},
    {"gigachat", WordPattern::gpt2},
    {"mellum", WordPattern::gpt2},
    {"a.x-4.0", WordPattern::gpt2},
    {"granite-docling", WordPattern::gpt2},
    {"smollm", WordPattern::digits_gpt2},
    {"starcoder", WordPattern::digits_gpt2},
    {"refact", WordPattern::digits_gpt2},
    {"command-r", WordPattern::digits_gpt2},
    {"codeshell", WordPattern::digits_gpt2},
    {"exaone", WordPattern::digits_gpt2},
    {"minerva-7b", WordPattern::digits_gpt2},
    {"falcon", WordPattern::falcon},
    {"deepseek-llm", WordPattern::deepseek_llm},
    {"deepseek-coder", WordPattern::deepseek_coder},
    {"deepseek-v3", WordPattern::deepseek_v3},
    {"hunyuan-dense", WordPattern::deepseek_v3},
    {"joyai-llm", WordPattern::deepseek_v3},
    {"tekken", WordPattern::tekken, true, true},
    {"gpt-4o", WordPattern::gpt4o},
    {"llama4", WordPattern::gpt4o},
    {"minimax-m2", WordPattern::gpt4o},
    {"bloom", WordPattern::bloom},
    {"gpt3-finnish", WordPattern::bloom},
    {"poro-chat", WordPattern::bloom},
    {"viking", WordPattern::viking},
    {"bailingmoe", WordPattern::qwen2},
    {"bailingmoe2", WordPattern::qwen2},
    {"llada-moe", WordPattern::qwen2},
    {"seed-coder", WordPattern::seed_coder},
});

// Unicode's White_Space, for use in a class. PCRE2's own \s also takes U+180E, which lost that property.
constexpr std::string_view kSpace =
    R"(\t-\r\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

// What the patterns below share. S stands for a space, N for none; filled in by expand().
constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^<S>\p{L}\p{N}]+|[<S>]+(?![^<S>])|[<S>]+)";
constexpr std::string_view kContraction = R"('[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
constexpr std::string_view kSpacesTail = R"([<S>]*[\r\n]+|[<S>]+(?![^<S>])|[<S>]+)";

// The cased letters that DeepSeek-LLM's tokenizer lists one by one.
constexpr std::string_view kDeepseekLetters =
    R"(A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF})"
    R"(\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1})"
    R"(\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5})"
    R"(\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77})"
    R"(\x{1D79}-\x{1D9A})"
    R"(\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B})"
    R"(\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC})"
    R"(\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107})"
    R"(\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134})"
    R"(\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4})"
    R"(\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F})"
    R"(\x{A771}-\x{A787})"
    R"(\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A})"
    R"(\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2})"
    R"(\x{118A0}-\x{118DF}\x{1E900}-\x{1E943})";

constexpr std::string_view kDeepseekHan = R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";
constexpr std::string_view kBloomWord =
    R"( ?[^(<S>|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+)";
constexpr std::string_view kUpper = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])";
constexpr std::string_view kLower = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])";

/// The pattern with <S> replaced by the members of the class of spaces.
std::string expand(std::string pattern) {
  constexpr std::string_view kMark = "<S>";
  for (size_t at = pattern.find(kMark); at != std::string::npos; at = pattern.find(kMark, at)) {
    pattern.replace(at, kMark.size(), kSpace);
    at += kSpace.size();
  }
  return pattern;
}

template <class... Parts>
std::string join(const Parts&... parts) {
  std::string pattern;
  (pattern.append(parts), ...);
  return expand(std::move(pattern));
}

/// Contraction, word, number, punctuation, spaces: what llama3 and its kin are made of.
std::string modern(std::string_view contraction, std::string_view letter, std::string_view number,
                   std::string_view not_punctuation) {
  return join(contraction, R"(|[^\r\n\p{L}\p{N}]?)", letter, "+|", number, "| ?[^<S>", not_punctuation,
              R"(]+[\r\n]*|)", kSpacesTail);
}

/// Words cut where the case changes; `suffix` is what may follow a word.
std::string cased(std::string_view suffix, std::string_view number) {
  const std::string head = R"([^\r\n\p{L}\p{N}]?)";
  return join(head, kUpper, "*", kLower, "+", suffix, "|", head, kUpper, "+", kLower, "*", suffix, "|",
              number, R"(| ?[^<S>\p{L}\p{N}]+[\r\n/]*|)", kSpacesTail);
}

std::vector<std::string> deepseek_patterns(WordPattern pattern) {
  if (pattern == WordPattern::deepseek_llm) {
    // The lookbehind says what the leftmost match is anyway: without it, a run of n spaces would cost n²
    // steps.
    return {R"([\r\n])",
            join("[<S>]?[", kDeepseekLetters, "]+"),
            join(R"([<S>]?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)"),
            join(R"((?<![<S>])[<S>]++\z)"),
            std::string(kDeepseekHan),
            R"(\p{N}+)"};
  }
  if (pattern == WordPattern::deepseek_coder) {
    return {R"([\r\n])", join(R"([<S>]?\p{L}+)"), join(R"([<S>]?\p{P}+)"), std::string(kDeepseekHan),
            R"(\p{N})"};
  }
  return {R"(\p{N}{1,3})", R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)",
          join(R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)",
               R"(| ?[\p{P}\p{S}]+[\r\n]*|)", kSpacesTail)};
}

}  // namespace

std::vector<std::string> word_patterns(WordPattern pattern) {
  const std::string anyone = join("(?:", kContraction, ")");
  switch (pattern) {
    case WordPattern::gpt2:
      return {join(kGpt2)};
    case WordPattern::digits_gpt2:
      return {R"(\p{N})", join(kGpt2)};
    case WordPattern::unnamed:
      return {R"([\p{P}\$\+<=>\^~\|]+)", join(kGpt2), R"(\p{N}+)", "[0-9][0-9][0-9]"};
    case WordPattern::falcon:
      return {R"([\p{P}\$\+<=>\^~\|`]+)", join(kGpt2), "[0-9][0-9][0-9]"};
    case WordPattern::llama3:
      return {modern(kContraction, R"(\p{L})", R"(\p{N}{1,3})", R"(\p{L}\p{N})")};
    case WordPattern::qwen2:
      return {modern(kContraction, R"(\p{L})", R"(\p{N})", R"(\p{L}\p{N})")};
    case WordPattern::qwen35:
      return {modern(kContraction, R"([\p{L}\p{M}])", R"(\p{N})", R"(\p{L}\p{M}\p{N})")};
    case WordPattern::tekken:
      return {cased("", R"(\p{N})")};
    case WordPattern::gpt4o:
      return {cased(anyone + "?", R"(\p{N}{1,3})")};
    case WordPattern::bloom:
      return {join(kBloomWord)};
    case WordPattern::viking:
      return {join(kBloomWord), R"(\p{N})"};
    case WordPattern::seed_coder:
      return {join(kContraction, R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^<S>\p{L}\p{N}\r\n]+|)", kSpacesTail)};
    case WordPattern::deepseek_llm:
    case WordPattern::deepseek_coder:
    case WordPattern::deepseek_v3:
      break;
  }
  return deepseek_patterns(pattern);
}

const PreTokenizerSpec* find_pre_tokenizer(std::string_view name) {
  const auto* found = std::find_if(kSpecs.begin(), kSpecs.end(),
                                   [name](const PreTokenizerSpec& spec) { return spec.name == name; });
  return found == kSpecs.end() ? nullptr : found;
}

std::string known_pre_tokenizers() {
  std::string names;
  for (const PreTokenizerSpec& spec : kSpecs) {
    if (!names.empty()) names.append(", ");
    names.append(spec.name);
  }
  return names;
}

PreTokenizer::PreTokenizer(WordPattern pattern, bool use_jit) {
  for (const std::string& stage : word_patterns(pattern)) stages_.emplace_back(stage, use_jit);
}

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
  if (text.empty()) return {};
  std::vector<std::string_view> pieces = {text};
  for (const Regex& stage : stages_) pieces = stage.split(pieces);
  return pieces;
}

}  // namespace tandem
