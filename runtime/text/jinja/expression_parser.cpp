// The expression half of the parser. Precedence from loose to tight: if, or, and, not, comparisons, + -, ~,
// * / // %, **, unary, then subscripts, calls, filters and tests. See expression_parser.h.
#include "runtime/text/jinja/expression_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace tandem::jinja {

namespace {

bool is_reserved(std::string_view name) {
  return name == "true" || name == "false" || name == "none" || name == "True" || name == "False" || name == "None";
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

void ExpressionParser::fail(const std::string& message) const { fail_at(current().line, message); }

void ExpressionParser::fail_at(int line, const std::string& message) const {
  throw Fault(FaultKind::syntax, message, line);
}

std::string ExpressionParser::describe() const {
  switch (current().type) {
    case TokenType::data: return "template text";
    case TokenType::variable_begin: return "'{{'";
    case TokenType::variable_end: return "'}}'";
    case TokenType::block_begin: return "'{%'";
    case TokenType::block_end: return "'%}'";
    case TokenType::end: return "the end of the template";
    case TokenType::string: return "a string";
    default: return fmt::format("'{}'", current().text);
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
    default: break;
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

bool ExpressionParser::at_tuple_end(std::string_view end_name) const {
  const TokenType type = current().type;
  if (type == TokenType::variable_end || type == TokenType::block_end || is_symbol(")")) return true;
  return !end_name.empty() && is_name(end_name);
}

ExprPtr ExpressionParser::parse_tuple(bool with_conditional, std::string_view end_name) {
  const int line = current().line;
  if (at_tuple_end(end_name)) fail(fmt::format("Expected an expression, got {}", describe()));
  ExprPtr first = parse_expression(with_conditional);
  if (!is_symbol(",")) return first;
  ExprPtr node = make(ExprType::tuple, line);
  adopt(*node, std::move(first));
  while (skip_symbol(",")) {
    if (at_tuple_end(end_name)) break;
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

ExprPtr ExpressionParser::parse_target(bool with_name_space, std::string_view end_name) {
  const int line = current().line;
  ExprPtr first = parse_simple_target(with_name_space);
  if (!is_symbol(",")) return first;
  ExprPtr node = make(ExprType::tuple, line);
  adopt(*node, std::move(first));
  while (skip_symbol(",")) {
    if (at_tuple_end(end_name)) break;
    adopt(*node, parse_simple_target(with_name_space));
  }
  return node;
}

ExprPtr ExpressionParser::parse_postfix(ExprPtr node) {
  while (true) {
    if (is_symbol(".")) {
      node = parse_attribute(std::move(node));
    } else if (is_symbol("[")) {
      node = parse_subscript(std::move(node));
    } else if (is_symbol("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::parse_filter_chain(ExprPtr node) {
  while (true) {
    if (is_symbol("|")) {
      node = parse_filters(std::move(node), false);
    } else if (is_name("is")) {
      node = parse_test(std::move(node));
    } else if (is_symbol("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::parse_attribute(ExprPtr node) {
  const int line = take().line;
  if (current().type == TokenType::name) {
    ExprPtr attribute = make(ExprType::attribute, line);
    attribute->name = take().text;
    adopt(*attribute, std::move(node));
    return attribute;
  }
  if (current().type != TokenType::integer) fail("expected name or number");
  ExprPtr key = make(ExprType::constant, line);
  key->constant = Value::from_int(take().integer);
  ExprPtr item = make(ExprType::item, line);
  adopt(*item, std::move(node));
  adopt(*item, std::move(key));
  return item;
}

ExprPtr ExpressionParser::parse_subscript_part(bool& is_slice) {
  is_slice = false;
  ExprPtr start;
  if (!is_symbol(":")) {
    start = parse_expression();
    if (!is_symbol(":")) return start;
  }
  is_slice = true;
  ExprPtr slice = make(ExprType::slice, take().line);
  slice->operands.push_back(nullptr);  // the object, put in by the caller
  adopt(*slice, std::move(start));
  const auto at_end = [this] { return is_symbol("]") || is_symbol(","); };
  adopt(*slice, is_symbol(":") || at_end() ? nullptr : parse_expression());
  adopt(*slice, skip_symbol(":") && !at_end() ? parse_expression() : nullptr);
  return slice;
}

ExprPtr ExpressionParser::parse_subscript(ExprPtr node) {
  const int line = take().line;
  std::vector<ExprPtr> parts;
  bool is_slice = false;
  while (!is_symbol("]")) {
    if (!parts.empty()) expect_symbol(",");
    if (is_slice) fail_at(line, "a slice among several subscripts");
    parts.push_back(parse_subscript_part(is_slice));
  }
  expect_symbol("]");
  if (is_slice) {
    if (parts.size() != 1) fail_at(line, "a slice among several subscripts");
    grow(*parts[0], *node);
    parts[0]->operands[0] = std::move(node);
    return std::move(parts[0]);
  }
  ExprPtr item = make(ExprType::item, line);
  adopt(*item, std::move(node));
  if (parts.size() == 1) {
    adopt(*item, std::move(parts[0]));
    return item;
  }
  ExprPtr key = make(ExprType::tuple, line);
  for (ExprPtr& part : parts) adopt(*key, std::move(part));
  adopt(*item, std::move(key));
  return item;
}

ExprPtr ExpressionParser::parse_call(ExprPtr node) {
  ExprPtr call = make(ExprType::call, current().line);
  adopt(*call, std::move(node));
  parse_arguments(*call);
  return call;
}

void ExpressionParser::parse_arguments(Expr& node) {
  expect_symbol("(");
  bool first = true;
  while (!is_symbol(")")) {
    if (!first) {
      expect_symbol(",");
      if (is_symbol(")")) break;  // a trailing comma
    }
    first = false;
    parse_argument(node);
  }
  expect_symbol(")");
}

void ExpressionParser::parse_argument(Expr& node) {
  CallExprs& arguments = node.arguments;
  const auto ensure = [&](bool ok) {
    if (!ok) fail_at(node.line, "invalid syntax for function call expression");
  };
  if (is_symbol("*")) {
    ensure(arguments.star == nullptr && arguments.star_star == nullptr);
    take();
    arguments.star = parse_expression();
    return grow(node, *arguments.star);
  }
  if (is_symbol("**")) {
    ensure(arguments.star_star == nullptr);
    take();
    arguments.star_star = parse_expression();
    return grow(node, *arguments.star_star);
  }
  if (current().type == TokenType::name && look().type == TokenType::symbol && look().text == "=") {
    ensure(arguments.star_star == nullptr);
    const std::string name = take().text;
    take();
    const bool repeated = std::any_of(arguments.keywords.begin(), arguments.keywords.end(),
                                      [&](const auto& keyword) { return keyword.first == name; });
    if (repeated) fail_at(node.line, fmt::format("keyword argument repeated: {}", name));
    arguments.keywords.emplace_back(name, parse_expression());
    return grow(node, *arguments.keywords.back().second);
  }
  ensure(arguments.star == nullptr && arguments.star_star == nullptr && arguments.keywords.empty());
  arguments.positional.push_back(parse_expression());
  grow(node, *arguments.positional.back());
}

ExprPtr ExpressionParser::parse_filters(ExprPtr input, bool start_inline) {
  while (start_inline || is_symbol("|")) {
    if (!start_inline) take();
    start_inline = false;
    ExprPtr node = make(ExprType::filter, current().line);
    node->name = expect_name();
    while (skip_symbol(".")) node->name.append(".").append(expect_name());
    if (input == nullptr) input = make(ExprType::captured, node->line);
    adopt(*node, std::move(input));
    if (is_symbol("(")) parse_arguments(*node);
    input = std::move(node);
  }
  return input;
}

ExprPtr ExpressionParser::parse_test(ExprPtr node) {
  const int line = take().line;
  const bool negated = skip_name("not");
  ExprPtr test = make(ExprType::test, line);
  test->name = expect_name();
  while (skip_symbol(".")) test->name.append(".").append(expect_name());
  adopt(*test, std::move(node));
  const TokenType type = current().type;
  const bool ends = is_name("else") || is_name("or") || is_name("and");
  const bool literal = type == TokenType::name || type == TokenType::string || type == TokenType::integer ||
                       type == TokenType::real || is_symbol("[") || is_symbol("{");
  if (is_symbol("(")) {
    parse_arguments(*test);
  } else if (literal && !ends) {
    if (is_name("is")) fail("You cannot chain multiple tests with is");
    const Level level(*this);
    ExprPtr argument = parse_postfix(parse_primary());
    grow(*test, *argument);
    test->arguments.positional.push_back(std::move(argument));
  }
  if (!negated) return test;
  ExprPtr inverted = make(ExprType::logical_not, line);
  adopt(*inverted, std::move(test));
  return inverted;
}

}  // namespace tandem::jinja
