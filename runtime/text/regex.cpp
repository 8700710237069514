// PCRE2's header asks for the width of a code unit by a macro, so this is the one file that includes it.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/text/regex.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <limits>

#include "ops/core/check.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

// A match may step back over a whole run of spaces, so the limit on steps grows with the text; a pattern that
// went quadratic would still be stopped. Depth and heap are for the matcher without JIT.
constexpr uint64_t kBaseMatchSteps = 1'000'000;
constexpr uint64_t kMatchStepsPerByte = 64;
constexpr uint32_t kMaxDepth = 100'000;
constexpr uint32_t kMaxHeapKib = 64 * 1024;

template <auto release>
struct Releaser {
  template <class T>
  void operator()(T* owned) const {
    release(owned);
  }
};
using CodePointer = std::unique_ptr<pcre2_code, Releaser<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Releaser<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Releaser<pcre2_match_context_free>>;

/// One thread's state for matching one pattern.
class Matcher {
 public:
  Matcher(const pcre2_code* code, const std::vector<std::string_view>& texts)
      : code_(code),
        data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)) {
    require(data_ != nullptr && context_ != nullptr, "PCRE2 has no memory for a match");
    for (const std::string_view text : texts) n_bytes_ += text.size();
    const uint64_t steps = std::min<uint64_t>(kBaseMatchSteps + kMatchStepsPerByte * n_bytes_,
                                              std::numeric_limits<uint32_t>::max());
    pcre2_set_match_limit(context_.get(), static_cast<uint32_t>(steps));
    pcre2_set_depth_limit(context_.get(), kMaxDepth);
    pcre2_set_heap_limit(context_.get(), kMaxHeapKib);
  }

  size_t n_bytes() const { return n_bytes_; }

  /// The bounds of the first match at or behind `position`; both the text's end where there is none.
  std::pair<size_t, size_t> next(std::string_view text, size_t position) {
    int status = match(text, position, PCRE2_NO_UTF_CHECK);
    if (status == PCRE2_ERROR_JIT_STACKLIMIT) {  // the matcher without JIT has a heap instead
      status = match(text, position, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);
    }
    if (status == PCRE2_ERROR_NOMATCH) return {text.size(), text.size()};
    if (status < 0) {
      throw Error(
          ExitCode::bad_data,
          fmt::format("the text can't be cut into words, from byte {} of a piece of {} on (PCRE2: {})",
                      position, text.size(), status));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data_.get());
    require(bounds[0] >= position && bounds[1] > bounds[0], "a pattern of ours matched nothing at", position);
    return {bounds[0], bounds[1]};
  }

 private:
  int match(std::string_view text, size_t position, uint32_t options) {
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), position, options,
                       data_.get(), context_.get());
  }

  const pcre2_code* code_;
  MatchData data_;
  MatchContext context_;
  size_t n_bytes_ = 0;
};

}  // namespace

struct Regex::Code {
  CodePointer pointer;
};

Regex::Regex(const std::string& pattern, bool use_jit) : code_(std::make_unique<Code>()) {
  int error = 0;
  PCRE2_SIZE where = 0;
  code_->pointer.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                     PCRE2_UTF | PCRE2_UCP, &error, &where, nullptr));
  require(code_->pointer != nullptr, "PCRE2 refuses a pattern of ours:", pattern, "at", where, "error",
          error);
  // Refused where memory can't be made executable; pcre2_match() then interprets, with the same result.
  if (use_jit) pcre2_jit_compile(code_->pointer.get(), PCRE2_JIT_COMPLETE);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

std::vector<std::string_view> Regex::split(const std::vector<std::string_view>& texts) const {
  Matcher matcher(code_->pointer.get(), texts);
  std::vector<std::string_view> pieces;
  pieces.reserve(texts.size() + matcher.n_bytes() / 8);
  for (const std::string_view text : texts) {
    size_t position = 0;
    while (position < text.size()) {
      const auto [begin, end] = matcher.next(text, position);
      if (begin > position) pieces.push_back(text.substr(position, begin - position));
      if (end > begin) pieces.push_back(text.substr(begin, end - begin));
      position = end;
    }
  }
  return pieces;
}

}  // namespace tandem
