// Python's str on UTF-8. See text.h.
#include "runtime/text/jinja/text.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <utility>

namespace tandem::jinja {

namespace {

/// Alternating: first code point of a run, its classes.
constexpr uint32_t kClasses[] = {
#include "runtime/text/jinja/unicode_classes.inc"
};

struct CaseRun {
  uint32_t first, last, stride;
  int32_t delta;
  int mode;
};
constexpr CaseRun kCaseRuns[] = {
#include "runtime/text/jinja/unicode_cases.inc"
};

struct SpecialCase {
  uint32_t from;
  int mode;
  std::array<char32_t, 3> to;
};
constexpr SpecialCase kSpecialCases[] = {
#include "runtime/text/jinja/unicode_special_cases.inc"
};

/// In the order of the tables' modes.
enum class CaseMode { upper, lower, title };

void append_mapped(std::string& out, char32_t c, CaseMode case_mode) {
  const int mode = static_cast<int>(case_mode);
  if (c < 0x80) {
    const bool small = c >= 'a' && c <= 'z';
    const bool large = c >= 'A' && c <= 'Z';
    if (small && case_mode != CaseMode::lower) c -= 32;
    if (large && case_mode == CaseMode::lower) c += 32;
    out.push_back(static_cast<char>(c));
    return;
  }
  // Both tables are sorted by mode, then code point; runs don't overlap.
  const auto* special = std::lower_bound(
      std::begin(kSpecialCases), std::end(kSpecialCases), c, [mode](const SpecialCase& s, char32_t x) {
        return std::pair(s.mode, s.from) < std::pair<int, uint32_t>(mode, x);
      });
  if (special != std::end(kSpecialCases) && special->mode == mode && special->from == c) {
    for (const char32_t to : special->to) {
      if (to != 0) append_utf8(out, to);
    }
    return;
  }
  const auto* run =
      std::lower_bound(std::begin(kCaseRuns), std::end(kCaseRuns), c, [mode](const CaseRun& r, char32_t x) {
        return std::pair(r.mode, r.last) < std::pair<int, uint32_t>(mode, x);
      });
  const bool hit = run != std::end(kCaseRuns) && run->mode == mode && run->first <= c &&
                   (c - run->first) % run->stride == 0;
  append_utf8(out, hit ? static_cast<char32_t>(static_cast<int32_t>(c) + run->delta) : c);
}

bool is_cased(char32_t c) {
  return (classes_of(c) & (kLower | kUpper | kTitle)) != 0;
}
bool is_ignorable(char32_t c) {
  return (classes_of(c) & kCaseIgnorable) != 0;
}

constexpr char32_t kSigma = 0x3a3;
constexpr char32_t kFinalSigma = 0x3c2;

/// A capital sigma becomes a final one at a word's end.
void append_lower(std::string& out, const std::u32string& chars, size_t i) {
  if (chars[i] != kSigma) return append_mapped(out, chars[i], CaseMode::lower);
  size_t before = i;
  while (before > 0 && is_ignorable(chars[before - 1])) --before;
  size_t after = i + 1;
  while (after < chars.size() && is_ignorable(chars[after])) ++after;
  const bool is_final =
      before > 0 && is_cased(chars[before - 1]) && (after == chars.size() || !is_cased(chars[after]));
  append_utf8(out, is_final ? kFinalSigma : U'σ');
}

}  // namespace

uint32_t classes_of(char32_t c) {
  const size_t n = std::size(kClasses) / 2;
  size_t low = 0, high = n;  // the last run that begins at or before c
  while (high - low > 1) {
    const size_t middle = (low + high) / 2;
    (kClasses[2 * middle] <= c ? low : high) = middle;
  }
  return kClasses[2 * low + 1];
}

bool is_line_break(char32_t c) {
  return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool is_valid_utf8(std::string_view bytes) {
  size_t i = 0;
  while (i < bytes.size()) {
    const auto lead = static_cast<unsigned char>(bytes[i]);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const size_t n = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || i + n > bytes.size()) return false;
    char32_t c = lead & (0xffu >> (n + 1));
    for (size_t k = 1; k < n; ++k) {
      const auto next = static_cast<unsigned char>(bytes[i + k]);
      if ((next & 0xc0) != 0x80) return false;
      c = (c << 6) | (next & 0x3fu);
    }
    constexpr std::array<char32_t, 5> kLeast = {0, 0, 0x80, 0x800, 0x10000};
    if (c < kLeast[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return false;
    i += n;
  }
  return true;
}

size_t count_chars(std::string_view bytes) {
  return static_cast<size_t>(std::count_if(
      bytes.begin(), bytes.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

char32_t decode(std::string_view bytes, size_t& pos) {
  const auto lead = static_cast<unsigned char>(bytes[pos]);
  if (lead < 0x80) {
    ++pos;
    return lead;
  }
  const size_t n = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  char32_t c = lead & (0xffu >> (n + 1));
  const size_t end = std::min(pos + n, bytes.size());
  for (++pos; pos < end; ++pos) c = (c << 6) | (static_cast<unsigned char>(bytes[pos]) & 0x3fu);
  return c;
}

void append_utf8(std::string& out, char32_t c) {
  const auto put = [&out](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xc0 | (c >> 6));
    put(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    put(0xe0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3f));
    put(0x80 | (c & 0x3f));
  } else {
    put(0xf0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3f));
    put(0x80 | ((c >> 6) & 0x3f));
    put(0x80 | (c & 0x3f));
  }
}

std::u32string to_code_points(std::string_view bytes) {
  std::u32string chars;
  chars.reserve(bytes.size());
  for (size_t i = 0; i < bytes.size();) chars.push_back(decode(bytes, i));
  return chars;
}

std::string to_utf8(std::u32string_view chars) {
  std::string out;
  for (const char32_t c : chars) append_utf8(out, c);
  return out;
}

size_t byte_of_char(std::string_view bytes, size_t n_chars) {
  size_t i = 0;
  while (n_chars > 0 && i < bytes.size()) {
    ++i;
    while (i < bytes.size() && (static_cast<unsigned char>(bytes[i]) & 0xc0) == 0x80) ++i;
    --n_chars;
  }
  return i;
}

std::string to_upper(std::string_view bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size();) append_mapped(out, decode(bytes, i), CaseMode::upper);
  return out;
}

std::string to_lower(std::string_view bytes) {
  const std::u32string chars = to_code_points(bytes);
  std::string out;
  for (size_t i = 0; i < chars.size(); ++i) append_lower(out, chars, i);
  return out;
}

std::string to_title(std::string_view bytes) {
  const std::u32string chars = to_code_points(bytes);
  std::string out;
  bool in_word = false;
  for (size_t i = 0; i < chars.size(); ++i) {
    if (in_word) {
      append_lower(out, chars, i);
    } else {
      append_mapped(out, chars[i], CaseMode::title);
    }
    in_word = is_cased(chars[i]);
  }
  return out;
}

std::string to_capitalized(std::string_view bytes) {
  const std::u32string chars = to_code_points(bytes);
  std::string out;
  for (size_t i = 0; i < chars.size(); ++i) {
    if (i == 0) {
      append_mapped(out, chars[i], CaseMode::title);
    } else {
      append_lower(out, chars, i);
    }
  }
  return out;
}

std::string to_swapped_case(std::string_view bytes) {
  const std::u32string chars = to_code_points(bytes);
  std::string out;
  for (size_t i = 0; i < chars.size(); ++i) {
    const uint32_t classes = classes_of(chars[i]);
    if ((classes & kUpper) != 0) {
      append_lower(out, chars, i);
    } else if ((classes & kLower) != 0) {
      append_mapped(out, chars[i], CaseMode::upper);
    } else {
      append_utf8(out, chars[i]);
    }
  }
  return out;
}

std::string_view strip(std::string_view bytes, std::optional<std::string_view> chars, bool left, bool right) {
  const std::u32string set = chars ? to_code_points(*chars) : std::u32string();
  const auto goes = [&](char32_t c) { return chars ? set.find(c) != std::u32string::npos : is_space(c); };
  size_t begin = 0, end = bytes.size();
  while (left && begin < end) {
    size_t next = begin;
    if (!goes(decode(bytes, next))) break;
    begin = next;
  }
  while (right && end > begin) {
    size_t previous = end - 1;
    while (previous > begin && (static_cast<unsigned char>(bytes[previous]) & 0xc0) == 0x80) --previous;
    size_t pos = previous;
    if (!goes(decode(bytes, pos))) break;
    end = previous;
  }
  return bytes.substr(begin, end - begin);
}

size_t find_bytes(std::string_view haystack, std::string_view needle, size_t from) {
  if (from > haystack.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  // memmem is linear where std::string_view::find is not.
  const void* found = memmem(haystack.data() + from, haystack.size() - from, needle.data(), needle.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - haystack.data());
}

size_t rfind_bytes(std::string_view haystack, std::string_view needle) {
  const std::string reversed_haystack(haystack.rbegin(), haystack.rend());
  const std::string reversed_needle(needle.rbegin(), needle.rend());
  const size_t at = find_bytes(reversed_haystack, reversed_needle);
  return at == std::string_view::npos ? at : haystack.size() - at - needle.size();
}

std::vector<std::string_view> split_lines(std::string_view bytes, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t i = 0; i < bytes.size();) {
    const size_t at = i;
    const char32_t c = decode(bytes, i);
    if (!is_line_break(c)) continue;
    if (c == '\r' && i < bytes.size() && bytes[i] == '\n') ++i;
    lines.push_back(bytes.substr(begin, (keep_ends ? i : at) - begin));
    begin = i;
  }
  if (begin < bytes.size()) lines.push_back(bytes.substr(begin));
  return lines;
}

}  // namespace tandem::jinja
