// What follows a primary expression: attributes, subscripts, calls, filters and tests. See
// expression_parser.h.
#include <fmt/format.h>

#include <algorithm>

#include "runtime/text/jinja/expression_parser.h"

namespace tandem::jinja {

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
