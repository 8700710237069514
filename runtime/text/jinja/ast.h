// The syntax tree of a template, and where its variables live. Built by parser.cpp, completed by scope.cpp
// (names -> slots), walked by interpreter.cpp. Immutable after that: one program may run many times.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/text/jinja/operators.h"
#include "runtime/text/jinja/value.h"

namespace tandem::jinja {

/// Where a variable is: `hops` function frames outwards, then a slot.
struct Ref {
  int hops = 0;
  int slot = -1;
};

enum class ExprType {
  constant,
  name,
  name_space_attribute,  ///< only as a target: ns.attr
  tuple,
  list,
  dict,       ///< operands: key, value, key, value …
  attribute,  ///< object.name
  item,       ///< object[key]
  slice,      ///< object[start:stop:step]; operands may be null
  call,
  filter,
  test,
  captured,  ///< what the enclosing filter or set block has printed
  negative,
  positive,
  logical_not,
  logical_and,
  logical_or,
  binary,
  compare,      ///< operands a, b, c with operators between them
  concatenate,  ///< ~
  conditional,  ///< value if test [else other]: operands test, value, other (or null)
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct CallExprs {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> keywords;
  ExprPtr star;       ///< *args
  ExprPtr star_star;  ///< **kwargs
};

struct Expr {
  ExprType type = ExprType::constant;
  int line = 0;
  int height = 1;  ///< of the tree below, bounded by the parser
  Value constant;
  std::string name;  ///< of a variable, attribute, filter or test; for ns.attr the namespace's
  std::string attribute;
  Ref ref;
  std::vector<ExprPtr> operands;
  std::vector<Operator> operators;
  CallExprs arguments;
};

/// What happens to a slot when its scope is entered.
struct ScopeLoad {
  enum class From { context, outer, nothing };
  int slot = -1;
  From from = From::nothing;
  std::string name;  ///< context
  Ref source;        ///< outer
};
using ScopeLoads = std::vector<ScopeLoad>;

enum class StmtType {
  output,
  branch,  ///< if, elif, else
  loop,    ///< for
  set,
  set_block,
  macro,
  call_block,
  filter_block,
  with,
  break_loop,
  continue_loop,
};

struct Stmt;
using Block = std::vector<std::unique_ptr<Stmt>>;

struct MacroParameter {
  std::string name;
  ExprPtr fallback;  ///< null: none
  int slot = -1;
};

/// A macro, a call block or a generation block: a function of its own.
struct MacroDefinition {
  std::string name;  ///< empty: anonymous
  int line = 0;
  std::vector<MacroParameter> parameters;
  Block body;
  ScopeLoads loads;
  int n_slots = 0;
  bool uses_caller = false;
  int caller_slot = -1;  ///< of the implicit parameter; -1 where it isn't used or is an explicit one
  int kwargs_slot = -1;
  int varargs_slot = -1;
};

struct Branch {
  ExprPtr test;
  Block body;
};

struct Stmt {
  StmtType type = StmtType::output;
  int line = 0;
  std::vector<ExprPtr> expressions;  ///< output: what is printed; with: the values
  std::vector<ExprPtr> targets;      ///< set, set_block, for: one; with: one a value
  ExprPtr value;        ///< set: the value; for: the iterable; call_block: the call; *_block: the filter
  ExprPtr test;         ///< for: the filter
  ExprPtr test_target;  ///< for: the target once more, in the filter's own scope
  std::vector<Branch> branches;  ///< if and elif
  Block body;
  Block else_body;
  ScopeLoads loads;  ///< of the body
  ScopeLoads test_loads;
  ScopeLoads else_loads;
  int loop_slot = -1;  ///< for: of `loop`, where the body uses it
  Ref name_ref;        ///< macro: the variable that holds it
  std::unique_ptr<MacroDefinition> macro;
};

struct Template {
  explicit Template(size_t max_bytes) : literals(max_bytes) {}
  Heap literals;
  Block body;
  ScopeLoads loads;
  int n_slots = 0;
};

/// The activation of one function: the template itself or a macro.
struct Frame : Object {
  std::vector<Value> slots;
  Frame* outer = nullptr;
};

}  // namespace tandem::jinja
