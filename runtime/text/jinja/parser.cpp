// The statement half of the parser. See parser.h.
#include "runtime/text/jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "runtime/text/jinja/expression_parser.h"
#include "runtime/text/jinja/scope.h"

namespace tandem::jinja {

namespace {

using StmtPtr = std::unique_ptr<Stmt>;
using Names = std::initializer_list<std::string_view>;

constexpr std::array<std::string_view, 8> kUnsupportedTags = {"autoescape", "block",  "do",      "extends",
                                                              "from",       "import", "include", "trans"};

class Parser : public ExpressionParser {
 public:
  Parser(std::vector<Token> tokens, Heap& literals, int max_depth)
      : ExpressionParser(std::move(tokens), literals, max_depth) {}

  Block parse_template() {
    Block body;
    parse_until(body, {});
    return body;
  }

 private:
  StmtPtr make_statement(StmtType type, int line) {
    auto statement = std::make_unique<Stmt>();
    statement->type = type;
    statement->line = line;
    return statement;
  }

  void add_output(Block& body, ExprPtr expression) {
    if (body.empty() || body.back()->type != StmtType::output) {
      body.push_back(make_statement(StmtType::output, expression->line));
    }
    body.back()->expressions.push_back(std::move(expression));
  }

  /// Statements up to a tag of `ends` (its name is not taken) or, where `ends` is empty, the template's end.
  void parse_until(Block& body, Names ends) {
    const Level level(*this);
    while (true) {
      switch (current().type) {
        case TokenType::end:
          if (ends.size() == 0) return;
          fail(fmt::format("Unexpected end of template; {} is missing", fmt::join(ends, " or ")));
        case TokenType::data: {
          ExprPtr text = make(ExprType::constant, current().line);
          text->constant = literal(take().text);
          add_output(body, std::move(text));
          break;
        }
        case TokenType::variable_begin:
          take();
          add_output(body, parse_tuple());
          expect(TokenType::variable_end, "'}}'");
          break;
        default: {
          expect(TokenType::block_begin, "'{%'");
          const bool ended = current().type == TokenType::name &&
                             std::find(ends.begin(), ends.end(), current().text) != ends.end();
          if (ended) return;
          body.push_back(parse_statement());
          expect(TokenType::block_end, "'%}'");
        }
      }
    }
  }

  /// The body of a tag, from its `%}` on; takes the name that ends it and returns it.
  std::string parse_body(Block& body, Names ends) {
    skip_symbol(":");
    expect(TokenType::block_end, "'%}'");
    parse_until(body, ends);
    return take().text;
  }

  StmtPtr parse_statement() {
    if (current().type != TokenType::name) fail("tag name expected");
    const int line = current().line;
    const std::string tag = take().text;
    if (tag == "if") return parse_if(line);
    if (tag == "for") return parse_for(line);
    if (tag == "set") return parse_set(line);
    if (tag == "macro") return parse_macro(line);
    if (tag == "call") return parse_call_block(line);
    if (tag == "generation") return parse_generation(line);
    if (tag == "filter") return parse_filter_block(line);
    if (tag == "with") return parse_with(line);
    if (tag == "print") return parse_print(line);
    if (tag == "break" || tag == "continue") {
      if (loops_ == 0) fail_at(line, fmt::format("'{}' outside loop", tag));
      return make_statement(tag == "break" ? StmtType::break_loop : StmtType::continue_loop, line);
    }
    if (std::find(kUnsupportedTags.begin(), kUnsupportedTags.end(), tag) != kUnsupportedTags.end()) {
      fail_at(line, fmt::format("the tag '{}' is not supported in chat templates", tag));
    }
    fail_at(line, fmt::format("Encountered unknown tag '{}'", tag));
  }

  StmtPtr parse_if(int line) {
    StmtPtr node = make_statement(StmtType::branch, line);
    while (true) {
      Branch& branch = node->branches.emplace_back();
      branch.test = parse_tuple(false);
      const std::string end = parse_body(branch.body, {"elif", "else", "endif"});
      if (end == "elif") continue;
      if (end == "else") parse_body(node->else_body, {"endif"});
      return node;
    }
  }

  StmtPtr parse_for(int line) {
    StmtPtr node = make_statement(StmtType::loop, line);
    const size_t begin = position();
    node->targets.push_back(parse_target(false));
    const size_t behind_target = position();
    if (!skip_name("in")) fail(fmt::format("expected 'in', got {}", describe()));
    node->value = parse_tuple(false);
    if (skip_name("if")) {
      node->test = parse_expression();
      const size_t behind = position();
      seek(begin);
      node->test_target = parse_target(false);
      if (position() != behind_target) fail("the loop's target doesn't parse twice");
      seek(behind);
    }
    if (is_name("recursive")) fail("recursive loops are not supported in chat templates");
    ++loops_;
    const std::string end = parse_body(node->body, {"endfor", "else"});
    --loops_;
    if (end == "else") parse_body(node->else_body, {"endfor"});
    return node;
  }

  StmtPtr parse_set(int line) {
    StmtPtr node = make_statement(StmtType::set, line);
    node->targets.push_back(parse_target(true));
    if (skip_symbol("=")) {
      node->value = parse_tuple();
      return node;
    }
    node->type = StmtType::set_block;
    if (is_symbol("|")) node->value = parse_filters(nullptr, false);
    parse_body(node->body, {"endset"});
    return node;
  }

  void parse_parameters(MacroDefinition& macro) {
    expect_symbol("(");
    while (!is_symbol(")")) {
      if (!macro.parameters.empty()) expect_symbol(",");
      const int line = current().line;
      MacroParameter parameter;
      parameter.name = parse_name_target()->name;
      for (const MacroParameter& other : macro.parameters) {
        if (other.name == parameter.name) {
          fail_at(line, fmt::format("duplicate argument '{}' in macro definition", parameter.name));
        }
      }
      if (skip_symbol("=")) {
        parameter.fallback = parse_expression();
      } else if (!macro.parameters.empty() && macro.parameters.back().fallback != nullptr) {
        fail("non-default argument follows default argument");
      }
      macro.parameters.push_back(std::move(parameter));
    }
    expect_symbol(")");
  }

  /// A function's body: the loops around it are not its own.
  void parse_function_body(MacroDefinition& macro, std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    parse_body(macro.body, {end});
    loops_ = loops;
  }

  StmtPtr parse_macro(int line) {
    StmtPtr node = make_statement(StmtType::macro, line);
    node->macro = std::make_unique<MacroDefinition>();
    node->macro->line = line;
    node->macro->name = parse_name_target()->name;
    parse_parameters(*node->macro);
    parse_function_body(*node->macro, "endmacro");
    return node;
  }

  StmtPtr parse_call_block(int line) {
    StmtPtr node = make_statement(StmtType::call_block, line);
    node->macro = std::make_unique<MacroDefinition>();
    node->macro->line = line;
    if (is_symbol("(")) parse_parameters(*node->macro);
    node->value = parse_expression();
    if (node->value->type != ExprType::call) fail_at(line, "expected call");
    parse_function_body(*node->macro, "endcall");
    return node;
  }

  /// transformers marks with it what the assistant says; it prints its body, which is a scope of its own.
  StmtPtr parse_generation(int line) {
    StmtPtr node = make_statement(StmtType::call_block, line);
    node->macro = std::make_unique<MacroDefinition>();
    node->macro->line = line;
    parse_function_body(*node->macro, "endgeneration");
    return node;
  }

  StmtPtr parse_filter_block(int line) {
    StmtPtr node = make_statement(StmtType::filter_block, line);
    node->value = parse_filters(nullptr, true);
    parse_body(node->body, {"endfilter"});
    return node;
  }

  StmtPtr parse_with(int line) {
    StmtPtr node = make_statement(StmtType::with, line);
    while (current().type != TokenType::block_end && !is_symbol(":")) {
      if (!node->targets.empty()) expect_symbol(",");
      node->targets.push_back(parse_with_target());
      expect_symbol("=");
      node->expressions.push_back(parse_expression());
    }
    parse_body(node->body, {"endwith"});
    return node;
  }

  /// A name, or a tuple in parentheses: a bare comma parts the assignments.
  ExprPtr parse_with_target() { return is_symbol("(") ? parse_target(false) : parse_name_target(); }

  StmtPtr parse_print(int line) {
    StmtPtr node = make_statement(StmtType::output, line);
    while (current().type != TokenType::block_end) {
      if (!node->expressions.empty()) expect_symbol(",");
      node->expressions.push_back(parse_expression());
    }
    return node;
  }

  int loops_ = 0;  ///< around the current place, within the current function
};

}  // namespace

std::unique_ptr<Template> parse(std::string_view source, int max_depth) {
  // Literals are at most a few times as large as the source, which is bounded itself.
  auto program = std::make_unique<Template>(SIZE_MAX);
  Parser parser(tokenize(source), program->literals, max_depth);
  program->body = parser.parse_template();
  resolve_names(*program);
  return program;
}

}  // namespace tandem::jinja
