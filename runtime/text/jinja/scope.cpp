// Names -> slots. A scope is a loop's, macro's, with's, set block's or filter block's body, or the whole
// template; `if` makes none. Before a scope's code runs, all names that it mentions are found out
// ("collect"), which settles for each slot how it begins: from the context, as a copy of an outer variable,
// or as nothing; then each name in the code is bound to its slot ("bind"). This order is what jinja2's
// compiler does, and its corner cases (a variable that is set in one branch only, or read before it is set)
// follow from it. See scope.h.
#include "runtime/text/jinja/scope.h"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <optional>
#include <set>

#include "runtime/text/jinja/filters.h"

namespace tandem::jinja {

namespace {

struct FunctionSlots {
  int depth = 0;  ///< 0: the template itself
  int n_slots = 0;
};

struct Slot {
  FunctionSlots* function = nullptr;
  int index = -1;
};

/// What one scope knows of its names while it is collected. Copies (for the branches of `if`) share the
/// slots.
class Symbols {
 public:
  Symbols(const Symbols* parent, FunctionSlots* function)
      : parent_(parent), function_(function), slots_(std::make_shared<std::map<std::string, int>>()) {}

  std::optional<Slot> find(const std::string& name) const {
    if (const auto it = refs_.find(name); it != refs_.end()) return Slot{function_, it->second};
    return parent_ == nullptr ? std::nullopt : parent_->find(name);
  }

  int declare_parameter(const std::string& name) {
    stores_.insert(name);
    const int slot = define(name);
    loads_.erase(slot);
    return slot;
  }

  void load(const std::string& name) {
    if (!find(name)) loads_[define(name)] = from_context(name);
  }

  void store(const std::string& name) {
    stores_.insert(name);
    if (refs_.contains(name)) return;
    const std::optional<Slot> outer = parent_ == nullptr ? std::nullopt : parent_->find(name);
    loads_[define(name)] = outer ? from_outer(*outer) : Load{};
  }

  /// Takes in what the branches of an `if` have found: a name that some branch sets begins as what it was
  /// before.
  void merge(const std::vector<Symbols>& branches) {
    std::set<std::string> stored;
    for (const Symbols& branch : branches) {
      for (const std::string& name : branch.stores_) {
        if (!stores_.contains(name)) stored.insert(name);
      }
    }
    for (const Symbols& branch : branches) {
      for (const auto& [name, slot] : branch.refs_) refs_[name] = slot;
      for (const auto& [slot, what] : branch.loads_) loads_[slot] = what;
      stores_.insert(branch.stores_.begin(), branch.stores_.end());
    }
    for (const std::string& name : stored) {
      const std::optional<Slot> outer = parent_ == nullptr ? std::nullopt : parent_->find(name);
      loads_[refs_.at(name)] = outer ? from_outer(*outer) : from_context(name);
    }
  }

  /// Where `slot` is, seen from this scope's function.
  Ref ref_to(const Slot& slot) const { return {function_->depth - slot.function->depth, slot.index}; }

  ScopeLoads take_loads() const {
    ScopeLoads out;
    for (const auto& [slot, what] : loads_) {
      ScopeLoad load;
      load.slot = slot;
      load.from = what.from;
      load.name = what.name;
      if (what.from == ScopeLoad::From::outer) load.source = ref_to(what.source);
      out.push_back(std::move(load));
    }
    return out;
  }

  FunctionSlots* function() const { return function_; }

 private:
  struct Load {
    ScopeLoad::From from = ScopeLoad::From::nothing;
    std::string name;
    Slot source;
  };

  static Load from_context(const std::string& name) { return {ScopeLoad::From::context, name, {}}; }
  static Load from_outer(const Slot& slot) { return {ScopeLoad::From::outer, {}, slot}; }

  int define(const std::string& name) {
    const auto [it, is_new] = slots_->try_emplace(name, function_->n_slots);
    if (is_new) ++function_->n_slots;
    refs_[name] = it->second;
    return it->second;
  }

  const Symbols* parent_;
  FunctionSlots* function_;
  std::shared_ptr<std::map<std::string, int>> slots_;
  std::map<std::string, int> refs_;
  std::map<int, Load> loads_;  ///< parameters have none
  std::set<std::string> stores_;
};

// ---- which of some special names a body reads before anything in it sets them

class UndeclaredNames {
 public:
  explicit UndeclaredNames(std::set<std::string> names) : names_(std::move(names)) {}

  std::set<std::string> find(const Block& block) {
    visit(block);
    return found_;
  }

 private:
  void visit(const Block& block) {
    for (const auto& statement : block) visit(*statement);
  }

  void visit_target(const Expr& target) {
    if (target.type == ExprType::name) names_.erase(target.name);
    for (const ExprPtr& part : target.operands) visit_target(*part);
  }

  void visit(const ExprPtr& node) {
    if (node == nullptr) return;
    if (node->type == ExprType::name && names_.contains(node->name)) found_.insert(node->name);
    for (const ExprPtr& operand : node->operands) visit(operand);
    for (const ExprPtr& argument : node->arguments.positional) visit(argument);
    for (const auto& keyword : node->arguments.keywords) visit(keyword.second);
    visit(node->arguments.star);
    visit(node->arguments.star_star);
  }

  void visit(const Stmt& s) {
    for (const ExprPtr& target : s.targets) visit_target(*target);
    visit(s.value);
    for (const ExprPtr& expression : s.expressions) visit(expression);
    if (s.macro != nullptr) {
      for (const MacroParameter& parameter : s.macro->parameters) names_.erase(parameter.name);
      for (const MacroParameter& parameter : s.macro->parameters) visit(parameter.fallback);
      visit(s.macro->body);
    }
    for (const Branch& branch : s.branches) {
      visit(branch.test);
      visit(branch.body);
    }
    visit(s.body);
    visit(s.else_body);
    visit(s.test);
  }

  std::set<std::string> names_;
  std::set<std::string> found_;
};

// ---- collecting: what a scope's own statements mention, without the scopes inside

class Collector {
 public:
  explicit Collector(Symbols& symbols) : symbols_(&symbols) {}

  void collect(const Block& block) {
    for (const auto& statement : block) collect(*statement);
  }

  void collect(const ExprPtr& node) {
    if (node == nullptr) return;
    if (node->type == ExprType::name) symbols_->load(node->name);
    for (const ExprPtr& operand : node->operands) collect(operand);
    for (const ExprPtr& argument : node->arguments.positional) collect(argument);
    for (const auto& keyword : node->arguments.keywords) collect(keyword.second);
    collect(node->arguments.star);
    collect(node->arguments.star_star);
  }

  void collect_target(const Expr& target, bool as_parameter) {
    if (target.type == ExprType::name_space_attribute) {
      symbols_->load(target.name);
    } else if (target.type == ExprType::name) {
      if (as_parameter) {
        symbols_->declare_parameter(target.name);
      } else {
        symbols_->store(target.name);
      }
    }
    for (const ExprPtr& part : target.operands) collect_target(*part, as_parameter);
  }

 private:
  void collect(const Stmt& s) {
    switch (s.type) {
      case StmtType::output:
        for (const ExprPtr& expression : s.expressions) collect(expression);
        return;
      case StmtType::branch:
        return collect_if(s);
      case StmtType::loop:
        return collect(s.value);
      case StmtType::set:
        collect(s.value);
        return collect_target(*s.targets[0], false);
      case StmtType::set_block:
        collect_target(*s.targets[0], false);
        return collect(s.value);  // the filter's arguments
      case StmtType::macro:
        return symbols_->store(s.macro->name);
      case StmtType::call_block:
      case StmtType::filter_block:
        return collect(s.value);
      case StmtType::with:
        for (const ExprPtr& value : s.expressions) collect(value);
        return;
      case StmtType::break_loop:
      case StmtType::continue_loop:
        return;
    }
  }

  void collect_if(const Stmt& s) {
    collect(s.branches[0].test);
    Symbols* const original = symbols_;
    const auto branch = [&](const auto& visit) {
      Symbols copy = *original;
      symbols_ = &copy;
      visit();
      symbols_ = original;
      return copy;
    };
    std::vector<Symbols> branches;
    branches.push_back(branch([&] { collect(s.branches[0].body); }));
    branches.push_back(branch([&] {
      // Each elif is a branching of its own within the branch of all of them.
      for (size_t i = 1; i < s.branches.size(); ++i) collect_elif(s.branches[i]);
    }));
    branches.push_back(branch([&] { collect(s.else_body); }));
    symbols_->merge(branches);
  }

  void collect_elif(const Branch& elif) {
    collect(elif.test);
    Symbols* const original = symbols_;
    std::vector<Symbols> branches(3, *original);
    symbols_ = &branches[0];
    collect(elif.body);
    symbols_ = original;
    symbols_->merge(branches);
  }

  Symbols* symbols_;
};

// ---- binding: every name in the code gets its slot, scope by scope

class Binder {
 public:
  void bind_template(Template& program) {
    FunctionSlots function;
    Symbols symbols(nullptr, &function);
    Collector(symbols).collect(program.body);
    bind(program.body, symbols, false);
    program.loads = symbols.take_loads();
    program.n_slots = function.n_slots;
  }

 private:
  /// `soft`: inside a condition, where an unknown filter or test is an error only once it is reached.
  void bind(Block& block, const Symbols& scope, bool soft) {
    for (auto& statement : block) bind(*statement, scope, soft);
  }

  static void check_name(const Expr& node, bool soft) {
    if (soft) return;
    const bool is_filter = node.type == ExprType::filter;
    if (is_filter ? find_filter(node.name) != nullptr : find_test(node.name) != nullptr) return;
    throw Fault(FaultKind::syntax, fmt::format("No {} named '{}'.", is_filter ? "filter" : "test", node.name),
                node.line);
  }

  void bind(const ExprPtr& node, const Symbols& scope, bool soft) {
    if (node == nullptr) return;
    if (node->type == ExprType::filter || node->type == ExprType::test) check_name(*node, soft);
    if (node->type == ExprType::conditional) soft = true;
    bind_name(*node, scope);
    for (const ExprPtr& operand : node->operands) bind(operand, scope, soft);
    for (const ExprPtr& argument : node->arguments.positional) bind(argument, scope, soft);
    for (const auto& keyword : node->arguments.keywords) bind(keyword.second, scope, soft);
    bind(node->arguments.star, scope, soft);
    bind(node->arguments.star_star, scope, soft);
  }

  static void bind_name(Expr& node, const Symbols& scope) {
    if (node.type != ExprType::name && node.type != ExprType::name_space_attribute) return;
    if (const std::optional<Slot> slot = scope.find(node.name)) node.ref = scope.ref_to(*slot);
  }

  void bind_target(Expr& target, const Symbols& scope) {
    bind_name(target, scope);
    for (const ExprPtr& part : target.operands) bind_target(*part, scope);
  }

  void bind(Stmt& s, const Symbols& scope, bool soft) {
    switch (s.type) {
      case StmtType::output:
        for (const ExprPtr& expression : s.expressions) bind(expression, scope, soft);
        return;
      case StmtType::branch:
        for (Branch& branch : s.branches) {
          bind(branch.test, scope, true);
          bind(branch.body, scope, true);
        }
        return bind(s.else_body, scope, true);
      case StmtType::loop:
        return bind_for(s, scope, soft);
      case StmtType::set:
        bind(s.value, scope, soft);
        return bind_target(*s.targets[0], scope);
      case StmtType::set_block:
        bind_target(*s.targets[0], scope);
        return bind_inner(s, scope);
      case StmtType::macro:
        bind_macro(*s.macro, scope);
        if (const std::optional<Slot> slot = scope.find(s.macro->name)) s.name_ref = scope.ref_to(*slot);
        return;
      case StmtType::call_block:
        bind_macro(*s.macro, scope);
        return bind(s.value, scope, soft);
      case StmtType::filter_block:
        return bind_inner(s, scope);
      case StmtType::with:
        return bind_with(s, scope, soft);
      case StmtType::break_loop:
      case StmtType::continue_loop:
        return;
    }
  }

  /// A set or filter block: the filter is called behind the body and within its scope.
  void bind_inner(Stmt& s, const Symbols& scope) {
    Symbols inner(&scope, scope.function());
    Collector collector(inner);
    collector.collect(s.body);
    collector.collect(s.value);
    bind(s.body, inner, false);
    bind(s.value, inner, false);
    s.loads = inner.take_loads();
  }

  void bind_with(Stmt& s, const Symbols& scope, bool soft) {
    Symbols inner(&scope, scope.function());
    Collector collector(inner);
    for (const ExprPtr& target : s.targets) collector.collect_target(*target, true);
    collector.collect(s.body);
    for (const ExprPtr& value : s.expressions) bind(value, scope, soft);
    for (const ExprPtr& target : s.targets) bind_target(*target, inner);
    bind(s.body, inner, false);
    s.loads = inner.take_loads();
  }

  static void refuse_loop_target(const Expr& target) {
    if (target.type == ExprType::name && target.name == "loop") {
      throw Fault(FaultKind::syntax, "Can't assign to special loop variable in for-loop target", target.line);
    }
    for (const ExprPtr& part : target.operands) refuse_loop_target(*part);
  }

  static void refuse_loop_targets(const Stmt& s) {
    for (const ExprPtr& target : s.targets) {
      if (s.type != StmtType::with) refuse_loop_target(*target);
    }
    const auto inside = [](const Block& block) {
      for (const auto& statement : block) refuse_loop_targets(*statement);
    };
    for (const Branch& branch : s.branches) inside(branch.body);
    inside(s.body);
    inside(s.else_body);
    if (s.macro != nullptr) inside(s.macro->body);
  }

  void bind_for(Stmt& s, const Symbols& scope, bool soft) {
    refuse_loop_targets(s);
    bind(s.value, scope, soft);
    Symbols body(&scope, scope.function());
    if (!UndeclaredNames({"loop"}).find(s.body).empty()) s.loop_slot = body.declare_parameter("loop");
    Collector collector(body);
    collector.collect_target(*s.targets[0], true);
    collector.collect(s.body);
    bind_target(*s.targets[0], body);
    bind(s.body, body, false);
    s.loads = body.take_loads();
    if (s.test != nullptr) {
      Symbols test(&scope, scope.function());
      Collector test_collector(test);
      test_collector.collect_target(*s.test_target, true);
      test_collector.collect(s.test);
      bind_target(*s.test_target, test);
      bind(s.test, test, false);
      s.test_loads = test.take_loads();
    }
    Symbols otherwise(&scope, scope.function());
    Collector(otherwise).collect(s.else_body);
    bind(s.else_body, otherwise, false);
    s.else_loads = otherwise.take_loads();
  }

  void bind_macro(MacroDefinition& macro, const Symbols& scope) {
    FunctionSlots function;
    function.depth = scope.function()->depth + 1;
    Symbols inner(&scope, &function);
    Collector collector(inner);
    for (MacroParameter& parameter : macro.parameters)
      parameter.slot = inner.declare_parameter(parameter.name);
    for (const MacroParameter& parameter : macro.parameters) collector.collect(parameter.fallback);
    bind_special_parameters(macro, inner);
    collector.collect(macro.body);
    for (const MacroParameter& parameter : macro.parameters) bind(parameter.fallback, inner, false);
    bind(macro.body, inner, false);
    macro.loads = inner.take_loads();
    macro.n_slots = function.n_slots;
  }

  /// `caller`, `kwargs` and `varargs`: parameters that a macro has once its body reads them.
  static void bind_special_parameters(MacroDefinition& macro, Symbols& inner) {
    const std::set<std::string> used = UndeclaredNames({"caller", "kwargs", "varargs"}).find(macro.body);
    const auto explicit_parameter = [&](std::string_view name) -> const MacroParameter* {
      for (const MacroParameter& parameter : macro.parameters) {
        if (parameter.name == name) return &parameter;
      }
      return nullptr;
    };
    if (used.contains("caller")) {
      const MacroParameter* parameter = explicit_parameter("caller");
      if (parameter != nullptr && parameter->fallback == nullptr) {
        throw Fault(
            FaultKind::syntax,
            "When defining macros or call blocks the special \"caller\" argument must be omitted or be given "
            "a default.",
            macro.line);
      }
      if (parameter == nullptr) macro.caller_slot = inner.declare_parameter("caller");
      macro.uses_caller = true;
    }
    if (used.contains("kwargs") && explicit_parameter("kwargs") == nullptr) {
      macro.kwargs_slot = inner.declare_parameter("kwargs");
    }
    if (used.contains("varargs") && explicit_parameter("varargs") == nullptr) {
      macro.varargs_slot = inner.declare_parameter("varargs");
    }
  }
};

}  // namespace

void resolve_names(Template& program) {
  Binder().bind_template(program);
}

}  // namespace tandem::jinja
