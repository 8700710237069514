// The expression half of the parser. Precedence from loose to tight: if, or, and, not, comparisons, + -, ~,
// * / // %, **, unary, then subscripts, calls, filters and tests. See expression_parser.h.
#include "runtime/text/jinja/expression_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace tandem::jinja {

namespace {

bool is_reserved(std::string_view name) {
  return name == "true" || name == "false" || name == "none" || name == "True" || name == "False" ||
         name == "None";
}

std::optional<Operator> comparison(std::string_view symbol) {
  if (symbol == "==") return Operator::equal;
  if (symbol == "!=") return Operator::not_equal;
  if (symbol == "<") return Operator::less;
  if (symbol == "<=") return Operator::less_equal;
  if (symbol == ">") return Operator::greater;
  if (symbol == ">=") return Operator::greater_equal;
  return std::nullopt;
}

}  // namespace

ExpressionParser::Level::Level(ExpressionParser& parser) : parser_(parser) {
  if (parser_.depth_left_ <= 0) {
    throw Fault(FaultKind::limit, "the template nests deeper than its limit allows", parser_.current().line);
  }
  --parser_.depth_left_;
}

const Token& ExpressionParser::take() {
  const Token& token = tokens_[pos_];
  if (pos_ + 1 < tokens_.size()) ++pos_;
  return token;
}

bool ExpressionParser::skip_symbol(std::string_view text) {
  if (!is_symbol(text)) return false;
  take();
  return true;
}

bool ExpressionParser::skip_name(std::string_view text) {
  if (!is_name(text)) return false;
  take();
  return true;
}

void ExpressionParser::expect_symbol(std::string_view text) {
  if (!skip_symbol(text)) fail(fmt::format("expected '{}', got {}", text, describe()));
}

void ExpressionParser::expect(TokenType type, std::string_view what) {
  if (current().type != type) fail(fmt::format("expected {}, got {}", what, describe()));
  take();
}

std::string ExpressionParser::expect_name() {
  if (current().type != TokenType::name) fail(fmt::format("expected a name, got {}", describe()));
  return take().text;
}

void ExpressionParser::fail(const std::string& message) const {
  fail_at(current().line, message);
}

void ExpressionParser::fail_at(int line, const std::string& message) const {
  throw Fault(FaultKind::syntax, message, line);
}

std::string ExpressionParser::describe() const {
  switch (current().type) {
    case TokenType::data:
      return "template text";
    case TokenType::variable_begin:
      return "'{{'";
    case TokenType::variable_end:
      return "'}}'";
    case TokenType::block_begin:
      return "'{%'";
    case TokenType::block_end:
      return "'%}'";
    case TokenType::end:
      return "the end of the template";
    case TokenType::string:
      return "a string";
    default:
      return fmt::format("'{}'", current().text);
  }
}

ExprPtr ExpressionParser::make(ExprType type, int line) {
  auto node = std::make_unique<Expr>();
  node->type = type;
  node->line = line;
  return node;
}

void ExpressionParser::grow(Expr& parent, const Expr& child) {
  parent.height = std::max(parent.height, child.height + 1);
  if (parent.height > max_height_) {
    throw Fault(FaultKind::limit, "the template nests deeper than its limit allows", parent.line);
  }
}

void ExpressionParser::adopt(Expr& parent, ExprPtr operand) {
  if (operand != nullptr) grow(parent, *operand);
  parent.operands.push_back(std::move(operand));
}

ExprPtr ExpressionParser::parse_expression(bool with_conditional) {
  const Level level(*this);
  return with_conditional ? parse_conditional() : parse_or();
}

ExprPtr ExpressionParser::parse_conditional() {
  ExprPtr value = parse_or();
  while (is_name("if")) {
    ExprPtr node = make(ExprType::conditional, take().line);
    adopt(*node, parse_or());
    adopt(*node, std::move(value));
    adopt(*node, skip_name("else") ? parse_expression() : nullptr);
    value = std::move(node);
  }
  return value;
}

ExprPtr ExpressionParser::parse_or() {
  ExprPtr left = parse_and();
  while (is_name("or")) {
    ExprPtr node = make(ExprType::logical_or, take().line);
    adopt(*node, std::move(left));
    adopt(*node, parse_and());
    left = std::move(node);
  }
  return left;
}

ExprPtr ExpressionParser::parse_and() {
  ExprPtr left = parse_not();
  while (is_name("and")) {
    ExprPtr node = make(ExprType::logical_and, take().line);
    adopt(*node, std::move(left));
    adopt(*node, parse_not());
    left = std::move(node);
  }
  return left;
}

ExprPtr ExpressionParser::parse_not() {
  if (!is_name("not")) return parse_compare();
  const Level level(*this);
  ExprPtr node = make(ExprType::logical_not, take().line);
  adopt(*node, parse_not());
  return node;
}

ExprPtr ExpressionParser::parse_compare() {
  ExprPtr first = parse_sum();
  ExprPtr node;
  while (true) {
    std::optional<Operator> op;
    if (current().type == TokenType::symbol) op = comparison(current().text);
    if (is_name("in")) op = Operator::in;
    if (is_name("not") && look().type == TokenType::name && look().text == "in") {
      op = Operator::not_in;
      take();
    }
    if (!op) break;
    const int line = take().line;
    if (node == nullptr) {
      node = make(ExprType::compare, line);
      adopt(*node, std::move(first));
    }
    node->operators.push_back(*op);
    adopt(*node, parse_sum());
  }
  return node != nullptr ? std::move(node) : std::move(first);
}

ExprPtr ExpressionParser::parse_sum() {
  ExprPtr left = parse_concatenation();
  while (is_symbol("+") || is_symbol("-")) {
    const Operator op = is_symbol("+") ? Operator::add : Operator::subtract;
    ExprPtr node = make(ExprType::binary, take().line);
    node->operators.push_back(op);
    adopt(*node, std::move(left));
    adopt(*node, parse_concatenation());
    left = std::move(node);
  }
  return left;
}

ExprPtr ExpressionParser::parse_concatenation() {
  ExprPtr first = parse_product();
  if (!is_symbol("~")) return first;
  ExprPtr node = make(ExprType::concatenate, current().line);
  adopt(*node, std::move(first));
  while (skip_symbol("~")) adopt(*node, parse_product());
  return node;
}

ExprPtr ExpressionParser::parse_product() {
  ExprPtr left = parse_power();
  while (true) {
    Operator op{};
    if (is_symbol("*")) {
      op = Operator::multiply;
    } else if (is_symbol("/")) {
      op = Operator::divide;
    } else if (is_symbol("//")) {
      op = Operator::floor_divide;
    } else if (is_symbol("%")) {
      op = Operator::modulo;
    } else {
      return left;
    }
    ExprPtr node = make(ExprType::binary, take().line);
    node->operators.push_back(op);
    adopt(*node, std::move(left));
    adopt(*node, parse_power());
    left = std::move(node);
  }
}

ExprPtr ExpressionParser::parse_power() {
  ExprPtr left = parse_unary(true);
  while (is_symbol("**")) {
    ExprPtr node = make(ExprType::binary, take().line);
    node->operators.push_back(Operator::power);
    adopt(*node, std::move(left));
    adopt(*node, parse_unary(true));
    left = std::move(node);
  }
  return left;
}

ExprPtr ExpressionParser::parse_unary(bool with_filters) {
  ExprPtr node;
  if (is_symbol("-") || is_symbol("+")) {
    const Level level(*this);
    node = make(is_symbol("-") ? ExprType::negative : ExprType::positive, current().line);
    take();
    adopt(*node, parse_unary(false));
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filters ? parse_filter_chain(std::move(node)) : std::move(node);
}

ExprPtr ExpressionParser::parse_constant_name(const std::string& name, int line) {
  ExprPtr node = make(ExprType::constant, line);
  if (name == "none" || name == "None") {
    node->constant = Value::none();
  } else {
    node->constant = Value::from_bool(name == "true" || name == "True");
  }
  return node;
}

ExprPtr ExpressionParser::parse_primary() {
  const Token& token = current();
  const int line = token.line;
  switch (token.type) {
    case TokenType::name: {
      const std::string name = take().text;
      if (is_reserved(name)) return parse_constant_name(name, line);
      ExprPtr node = make(ExprType::name, line);
      node->name = name;
      return node;
    }
    case TokenType::string: {
      std::string text;
      while (current().type == TokenType::string) text += take().text;
      ExprPtr node = make(ExprType::constant, line);
      node->constant = literals_.string(std::move(text));
      return node;
    }
    case TokenType::integer:
    case TokenType::real: {
      ExprPtr node = make(ExprType::constant, line);
      node->constant =
          token.type == TokenType::integer ? Value::from_int(token.integer) : Value::from_real(token.real);
      take();
      return node;
    }
    default:
      break;
  }
  if (is_symbol("(")) return parse_parentheses();
  if (is_symbol("[")) return parse_list();
  if (is_symbol("{")) return parse_dict();
  fail(fmt::format("unexpected {}", describe()));
}

ExprPtr ExpressionParser::parse_parentheses() {
  const Level level(*this);
  const int line = take().line;
  ExprPtr node;
  if (is_symbol(")")) {
    node = make(ExprType::tuple, line);
  } else {
    node = parse_tuple();
  }
  expect_symbol(")");
  return node;
}

ExprPtr ExpressionParser::parse_list() {
  ExprPtr node = make(ExprType::list, take().line);
  while (!is_symbol("]")) {
    if (!node->operands.empty()) expect_symbol(",");
    if (is_symbol("]")) break;
    adopt(*node, parse_expression());
  }
  expect_symbol("]");
  return node;
}

ExprPtr ExpressionParser::parse_dict() {
  ExprPtr node = make(ExprType::dict, take().line);
  while (!is_symbol("}")) {
    if (!node->operands.empty()) expect_symbol(",");
    if (is_symbol("}")) break;
    adopt(*node, parse_expression());
    expect_symbol(":");
    adopt(*node, parse_expression());
  }
  expect_symbol("}");
  return node;
}

bool ExpressionParser::at_tuple_end() const {
  const TokenType type = current().type;
  return type == TokenType::variable_end || type == TokenType::block_end || is_symbol(")");
}

ExprPtr ExpressionParser::parse_tuple(bool with_conditional) {
  const int line = current().line;
  if (at_tuple_end()) fail(fmt::format("Expected an expression, got {}", describe()));
  ExprPtr first = parse_expression(with_conditional);
  if (!is_symbol(",")) return first;
  ExprPtr node = make(ExprType::tuple, line);
  adopt(*node, std::move(first));
  while (skip_symbol(",")) {
    if (at_tuple_end()) break;
    adopt(*node, parse_expression(with_conditional));
  }
  return node;
}

ExprPtr ExpressionParser::parse_name_target() {
  const int line = current().line;
  ExprPtr node = make(ExprType::name, line);
  node->name = expect_name();
  if (is_reserved(node->name)) fail_at(line, fmt::format("can't assign to '{}'", node->name));
  return node;
}

ExprPtr ExpressionParser::parse_simple_target(bool with_name_space) {
  if (is_symbol("(")) {
    const Level level(*this);
    take();
    ExprPtr node = is_symbol(")") ? make(ExprType::tuple, current().line) : parse_target(false);
    expect_symbol(")");
    return node;
  }
  ExprPtr node = parse_name_target();
  if (with_name_space && skip_symbol(".")) {
    node->type = ExprType::name_space_attribute;
    node->attribute = expect_name();
  }
  return node;
}

ExprPtr ExpressionParser::parse_target(bool with_name_space) {
  const int line = current().line;
  ExprPtr first = parse_simple_target(with_name_space);
  if (!is_symbol(",")) return first;
  ExprPtr node = make(ExprType::tuple, line);
  adopt(*node, std::move(first));
  while (skip_symbol(",")) {
    if (at_tuple_end()) break;
    adopt(*node, parse_simple_target(with_name_space));
  }
  return node;
}

}  // namespace tandem::jinja
