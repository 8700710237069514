// Template text -> tokens, with jinja2's whitespace control under trim_blocks and lstrip_blocks, as Hugging
// Face's apply_chat_template sets them. Called by the parser.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::jinja {

enum class TokenType {
  data,
  variable_begin,
  variable_end,
  block_begin,
  block_end,
  name,
  integer,
  real,
  string,
  symbol,  ///< an operator or a bracket; its text tells which
  end,
};

struct Token {
  TokenType type = TokenType::end;
  int line = 0;
  std::string text;  ///< strings: with the escapes resolved
  int64_t integer = 0;
  double real = 0.0;
};

/// Throws Fault(syntax) with a line. The last token is `end`.
std::vector<Token> tokenize(std::string_view source);

}  // namespace tandem::jinja
