// Runs a parsed template: statements print into a string, expressions give values. One Interpreter is one
// run. Called by chat_template.cpp.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/jinja/ast.h"
#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/runtime.h"

namespace tandem::jinja {

class Interpreter final : public Runtime {
 public:
  Interpreter(const Template& program, const RunLimits& limits, const Clock& clock);
  ~Interpreter() = default;

  /// Renders with the variables of `context` (a dict). Throws Fault with a line.
  std::string run(const Value& context);

  Value call(const Value& callee, const CallArgs& args) override;
  Value loop_attribute(Loop& loop, std::string_view name) override;
  int64_t loop_length(Loop& loop) override;
  int64_t loop_index(const Loop& loop) override { return loop.index0 + 1; }
  Value call_loop_method(Loop& loop, std::string_view name, const CallArgs& args);

 private:
  enum class Flow { normal, break_loop, continue_loop };

  // statements
  Flow execute(const Block& block);
  Flow execute(const Stmt& statement);
  void print(const Stmt& statement);
  Flow execute_if(const Stmt& statement);
  Flow execute_for(const Stmt& statement);
  Flow execute_with(const Stmt& statement);
  Flow execute_capture(const Stmt& statement);
  void execute_set(const Stmt& statement);
  void execute_call_block(const Stmt& statement);
  Value define_macro(const MacroDefinition& definition);
  void emit(std::string_view text);
  void emit_string(
      const Value& value);  ///< of a filter or call block: anything but a string is a Fault(type)
  void assign(const Expr& target, const Value& value);
  void check_name_spaces(const Expr& target);
  void enter(const ScopeLoads& loads);
  void leave(const ScopeLoads& loads);
  bool next_item(Loop& loop, Value& out);
  bool advance_loop(Loop& loop);

  // expressions
  Value evaluate(const Expr& node);
  Value evaluate_operation(const Expr& node);
  Value evaluate_name(const Expr& node);
  Value evaluate_sequence(const Expr& node);
  Value evaluate_dict(const Expr& node);
  Value evaluate_compare(const Expr& node);
  Value evaluate_concatenation(const Expr& node);
  Value evaluate_conditional(const Expr& node);
  Value evaluate_filter(const Expr& node);
  Value evaluate_test(const Expr& node);
  Value evaluate_call(const Expr& node, const Value* caller);
  CallArgs evaluate_arguments(const CallExprs& arguments);
  Value call_macro(const Macro& macro, const CallArgs& args);
  void bind_arguments(const MacroDefinition& definition, const CallArgs& args, Frame& frame);
  Value& slot(const Ref& ref);

  const Template& program_;
  const Dict* context_ = nullptr;
  Frame* frame_ = nullptr;
  std::string* out_ = nullptr;
  Value captured_;  ///< what the innermost filter or set block printed
};

}  // namespace tandem::jinja
