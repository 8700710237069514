// The expression half of the parser, over a stream of tokens. Derived from by the statement half in
// parser.cpp; used nowhere else.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/jinja/ast.h"
#include "runtime/text/jinja/lexer.h"

namespace tandem::jinja {

class ExpressionParser {
 protected:
  ExpressionParser(std::vector<Token> tokens, Heap& literals, int max_depth)
      : tokens_(std::move(tokens)), literals_(literals), depth_left_(max_depth), max_height_(max_depth) {}
  ~ExpressionParser() = default;

  const Token& current() const { return tokens_[pos_]; }
  const Token& look() const { return tokens_[std::min(pos_ + 1, tokens_.size() - 1)]; }
  const Token& take();
  size_t position() const { return pos_; }
  void seek(size_t position) { pos_ = position; }
  Value literal(const std::string& text) { return literals_.string(text); }
  bool is_symbol(std::string_view text) const {
    return current().type == TokenType::symbol && current().text == text;
  }
  bool is_name(std::string_view text) const {
    return current().type == TokenType::name && current().text == text;
  }
  bool skip_symbol(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_symbol(std::string_view text);
  void expect(TokenType type, std::string_view what);
  std::string expect_name();
  [[noreturn]] void fail(const std::string& message) const;
  [[noreturn]] void fail_at(int line, const std::string& message) const;
  /// How messages call the current token.
  std::string describe() const;

  ExprPtr parse_expression(bool with_conditional = true);
  /// One expression, or a tuple without parentheses.
  ExprPtr parse_tuple(bool with_conditional = true);
  /// A name, ns.attr where `with_name_space`, or a tuple of them.
  ExprPtr parse_target(bool with_name_space);
  ExprPtr parse_name_target();
  /// `|name(…)|name…` behind `input`; with `start_inline` the first bar is left out.
  ExprPtr parse_filters(ExprPtr input, bool start_inline);

  ExprPtr make(ExprType type, int line);
  /// Adopts `operand` and keeps the height.
  void adopt(Expr& parent, ExprPtr operand);

  /// One level of the parser's recursion.
  class Level {
   public:
    explicit Level(ExpressionParser& parser);
    ~Level() { ++parser_.depth_left_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    ExpressionParser& parser_;
  };

 private:
  ExprPtr parse_conditional();
  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  ExprPtr parse_compare();
  ExprPtr parse_sum();
  ExprPtr parse_concatenation();
  ExprPtr parse_product();
  ExprPtr parse_power();
  ExprPtr parse_unary(bool with_filters);
  ExprPtr parse_primary();
  ExprPtr parse_constant_name(const std::string& name, int line);
  ExprPtr parse_list();
  ExprPtr parse_dict();
  ExprPtr parse_parentheses();
  ExprPtr parse_postfix(ExprPtr node);
  ExprPtr parse_filter_chain(ExprPtr node);
  ExprPtr parse_attribute(ExprPtr node);
  ExprPtr parse_subscript(ExprPtr node);
  ExprPtr parse_subscript_part(bool& is_slice);
  ExprPtr parse_call(ExprPtr node);
  ExprPtr parse_test(ExprPtr node);
  void parse_arguments(Expr& node);
  void parse_argument(Expr& node);
  ExprPtr parse_simple_target(bool with_name_space);
  bool at_tuple_end() const;
  void grow(Expr& parent, const Expr& child);

  std::vector<Token> tokens_;
  size_t pos_ = 0;
  Heap& literals_;
  int depth_left_;
  int max_height_;
};

}  // namespace tandem::jinja
