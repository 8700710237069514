// Template text -> tokens. See lexer.h.
#include "runtime/text/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "runtime/text/jinja/fault.h"
#include "runtime/text/jinja/literals.h"
#include "runtime/text/jinja/text.h"

namespace tandem::jinja {

namespace {

constexpr auto kNone = std::string_view::npos;

/// All line ends become "\n", and one at the very end goes.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      out += '\n';
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_newlines(source)), text_(source_) {}

  std::vector<Token> run() {
    while (pos_ < text_.size()) root();
    add(TokenType::end, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const { throw Fault(FaultKind::syntax, message, line_); }

  bool at(std::string_view what) const { return text_.substr(pos_).starts_with(what); }

  void add(TokenType type, std::string text) {
    Token token;
    token.type = type;
    token.line = line_;
    token.text = std::move(text);
    tokens_.push_back(std::move(token));
  }

  /// Moves to byte `end`, counting lines.
  void advance(size_t end) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<ptrdiff_t>(pos_),
                                         text_.begin() + static_cast<ptrdiff_t>(end), '\n'));
    pos_ = end;
  }

  size_t skip_spaces(size_t pos) const {
    while (pos < text_.size()) {
      size_t next = pos;
      if (!is_space(decode(text_, next))) break;
      pos = next;
    }
    return pos;
  }

  /// The end of a tag whose closing mark is `mark` at byte `pos`: with the whitespace or the newline that it
  /// swallows; npos where there is none.
  size_t tag_end(size_t pos, std::string_view mark, bool is_block) const {
    const std::string_view rest = text_.substr(pos);
    if (rest.starts_with('-') && rest.substr(1).starts_with(mark)) return skip_spaces(pos + 1 + mark.size());
    if (is_block && rest.starts_with('+') && rest.substr(1).starts_with(mark)) return pos + 1 + mark.size();
    if (!rest.starts_with(mark)) return kNone;
    const size_t end = pos + mark.size();
    return is_block && end < text_.size() && text_[end] == '\n' ? end + 1 : end;
  }

  /// The text before a tag, stripped as the tag's sign and lstrip_blocks ask.
  std::string_view before_tag(size_t begin, size_t end, char sign, bool is_variable) const {
    const std::string_view text = text_.substr(begin, end - begin);
    if (sign == '-') return strip(text, std::nullopt, false, true);
    if (sign == '+' || is_variable) return text;
    const size_t newline = text.rfind('\n');
    const bool line_starts = newline != kNone || begin == 0 || text_[begin - 1] == '\n';
    const size_t line_begin = newline == kNone ? 0 : newline + 1;
    const bool blank = strip(text.substr(line_begin), std::nullopt, true, false).empty();
    return line_starts && blank ? text.substr(0, line_begin) : text;
  }

  char sign_at(size_t pos) const {
    return pos < text_.size() && (text_[pos] == '-' || text_[pos] == '+') ? text_[pos] : ' ';
  }

  /// The byte behind `{% raw %}` if one begins at `open`, or npos.
  size_t raw_begin(size_t open) const {
    if (!text_.substr(open).starts_with("{%")) return kNone;
    size_t pos = open + 2;
    if (sign_at(pos) != ' ') ++pos;
    pos = skip_spaces(pos);
    if (!text_.substr(pos).starts_with("raw")) return kNone;
    pos = skip_spaces(pos + 3);
    if (text_.substr(pos).starts_with("-%}")) return skip_spaces(pos + 3);
    return text_.substr(pos).starts_with("%}") ? pos + 2 : kNone;
  }

  /// Plain text up to the next tag, and the tag's beginning.
  void root() {
    size_t open = pos_;
    while (true) {
      open = text_.find('{', open);
      if (open == kNone || open + 1 >= text_.size()) break;
      const char kind = text_[open + 1];
      if (kind == '%' || kind == '{' || kind == '#') break;
      ++open;
    }
    if (open == kNone || open + 1 >= text_.size()) {
      add(TokenType::data, std::string(text_.substr(pos_)));
      return advance(text_.size());
    }
    const char kind = text_[open + 1];
    const char sign = sign_at(open + 2);
    const std::string_view data = before_tag(pos_, open, sign, kind == '{');
    if (!data.empty()) add(TokenType::data, std::string(data));
    advance(open);
    if (const size_t raw = raw_begin(open); raw != kNone) return raw_block(raw);
    const size_t inside = open + 2 + (sign == ' ' ? 0 : 1);
    if (kind == '#') return comment(inside);
    add(kind == '{' ? TokenType::variable_begin : TokenType::block_begin, "");
    advance(inside);
    tag(kind == '{');
  }

  void comment(size_t inside) {
    const size_t mark = text_.find("#}", inside);
    if (mark == kNone) fail("Missing end of comment tag");
    // A sign before the mark belongs to it, unless it is the opening's own.
    const bool has_sign = mark > inside && (text_[mark - 1] == '-' || text_[mark - 1] == '+');
    advance(tag_end(has_sign ? mark - 1 : mark, "#}", true));
  }

  void raw_block(size_t begin) {
    advance(begin);
    for (size_t open = text_.find("{%", begin); open != kNone; open = text_.find("{%", open + 1)) {
      const char sign = sign_at(open + 2);
      size_t pos = skip_spaces(open + 2 + (sign == ' ' ? 0 : 1));
      if (!text_.substr(pos).starts_with("endraw")) continue;
      pos = skip_spaces(pos + 6);
      const size_t end = tag_end(pos, "%}", true);
      if (end == kNone) continue;
      const std::string_view data = before_tag(begin, open, sign, false);
      if (!data.empty()) add(TokenType::data, std::string(data));
      return advance(end);
    }
    fail("Missing end of raw directive");
  }

  /// The tokens inside a tag, and its end.
  void tag(bool is_variable) {
    std::string open_brackets;
    while (true) {
      if (open_brackets.empty()) {
        const size_t end = tag_end(pos_, is_variable ? "}}" : "%}", !is_variable);
        if (end != kNone) {
          add(is_variable ? TokenType::variable_end : TokenType::block_end, "");
          return advance(end);
        }
      }
      if (const size_t next = skip_spaces(pos_); next != pos_) {
        advance(next);
        continue;
      }
      if (pos_ >= text_.size()) return;  // the parser tells what is missing
      if (!number() && !name() && !string()) symbol(open_brackets);
    }
  }

  bool number() {
    NumberLiteral literal;
    const size_t length = scan_number(text_, pos_, literal);
    if (length == 0) return false;
    if (literal.too_large) fail("an integer goes beyond 64 bits, which templates may not use here");
    add(literal.is_real ? TokenType::real : TokenType::integer, std::string(text_.substr(pos_, length)));
    tokens_.back().integer = literal.integer;
    tokens_.back().real = literal.real;
    advance(pos_ + length);
    return true;
  }

  bool name() {
    size_t end = pos_;
    bool first_is_letter = false;
    while (end < text_.size()) {
      size_t next = end;
      const uint32_t classes = classes_of(decode(text_, next));
      if ((classes & (kIdentifierContinue | kNumeric)) == 0) break;
      if (end == pos_) first_is_letter = (classes & kIdentifierStart) != 0;
      end = next;
    }
    if (end == pos_) return false;
    if (!first_is_letter) fail("Invalid character in identifier");
    add(TokenType::name, std::string(text_.substr(pos_, end - pos_)));
    advance(end);
    return true;
  }

  bool string() {
    const char quote = text_[pos_];
    if (quote != '\'' && quote != '"') return false;
    size_t end = pos_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size())
      fail(fmt::format("unexpected char {}: the string has no end", quote == '"' ? "'\"'" : "\"'\""));
    add(TokenType::string, unescape(text_.substr(pos_ + 1, end - pos_ - 1), line_));
    advance(end + 1);
    return true;
  }

  void symbol(std::string& open_brackets) {
    static constexpr std::array<std::string_view, 6> kDouble = {"//", "**", "==", "!=", ">=", "<="};
    static constexpr std::string_view kSingle = "+-/*%~[](){}><=.:|,;";
    size_t length = 0;
    for (const std::string_view candidate : kDouble) {
      if (at(candidate)) length = 2;
    }
    const char c = text_[pos_];
    if (length == 0) {
      if (kSingle.find(c) == kNone) fail(fmt::format("unexpected char at byte {} of the template", pos_));
      length = 1;
    }
    if (c == '{') open_brackets += '}';
    if (c == '(') open_brackets += ')';
    if (c == '[') open_brackets += ']';
    if (c == '}' || c == ')' || c == ']') {
      if (open_brackets.empty()) fail(fmt::format("unexpected '{}'", c));
      if (open_brackets.back() != c)
        fail(fmt::format("unexpected '{}', expected '{}'", c, open_brackets.back()));
      open_brackets.pop_back();
    }
    add(TokenType::symbol, std::string(text_.substr(pos_, length)));
    advance(pos_ + length);
  }

  std::string source_;
  std::string_view text_;
  size_t pos_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace tandem::jinja
