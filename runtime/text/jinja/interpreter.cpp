// The statements. See interpreter.h.
#include "runtime/text/jinja/interpreter.h"

#include <fmt/format.h>

#include <utility>

namespace tandem::jinja {

Interpreter::Interpreter(const Template& program, const RunLimits& limits, const Clock& clock)
    : Runtime(limits, clock), program_(program) {}

std::string Interpreter::run(const Value& context) {
  context_ = &context.dict();
  frame_ = heap().make<Frame>();
  heap().charge(static_cast<size_t>(program_.n_slots) * sizeof(Value));
  frame_->slots.resize(static_cast<size_t>(program_.n_slots));
  std::string out;
  out_ = &out;
  enter(program_.loads);
  execute(program_.body);
  return out;
}

Value& Interpreter::slot(const Ref& ref) {
  Frame* frame = frame_;
  for (int i = 0; i < ref.hops; ++i) frame = frame->outer;
  return frame->slots[static_cast<size_t>(ref.slot)];
}

void Interpreter::enter(const ScopeLoads& loads) {
  for (const ScopeLoad& load : loads) {
    Value& target = frame_->slots[static_cast<size_t>(load.slot)];
    switch (load.from) {
      case ScopeLoad::From::nothing:
        target = Value();
        break;
      case ScopeLoad::From::outer:
        target = slot(load.source);
        break;
      case ScopeLoad::From::context: {
        const Value* value = context_->find(load.name);
        target = value == nullptr ? Value() : *value;
      }
    }
  }
}

void Interpreter::leave(const ScopeLoads& loads) {
  // A macro that was defined in the scope and lives on finds nothing there any more.
  for (const ScopeLoad& load : loads) frame_->slots[static_cast<size_t>(load.slot)] = Value();
}

void Interpreter::emit(std::string_view text) {
  if (text.size() > max_output_bytes() - out_->size()) {
    throw Fault(FaultKind::limit, "the template makes a longer text than its limit allows");
  }
  scan(text.size());
  out_->append(text);
}

Interpreter::Flow Interpreter::execute(const Block& block) {
  for (const auto& statement : block) {
    const Flow flow = execute(*statement);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::execute(const Stmt& statement) {
  const Deeper deeper(*this);
  step();
  try {
    switch (statement.type) {
      case StmtType::output:
        print(statement);
        return Flow::normal;
      case StmtType::branch:
        return execute_if(statement);
      case StmtType::loop:
        return execute_for(statement);
      case StmtType::set:
        execute_set(statement);
        return Flow::normal;
      case StmtType::set_block:
      case StmtType::filter_block:
        return execute_capture(statement);
      case StmtType::macro:
        slot(statement.name_ref) = define_macro(*statement.macro);
        return Flow::normal;
      case StmtType::call_block:
        execute_call_block(statement);
        return Flow::normal;
      case StmtType::with:
        return execute_with(statement);
      case StmtType::break_loop:
        return Flow::break_loop;
      case StmtType::continue_loop:
        return Flow::continue_loop;
    }
  } catch (Fault& fault) {
    if (fault.line() == 0) fault.set_line(statement.line);
    throw;
  }
  return Flow::normal;
}

void Interpreter::print(const Stmt& statement) {
  for (const ExprPtr& expression : statement.expressions) {
    const Value value = evaluate(*expression);
    if (value.is(Kind::string)) {
      emit(value.view());
    } else {
      emit(to_str(*this, value));
    }
  }
}

Interpreter::Flow Interpreter::execute_if(const Stmt& statement) {
  for (const Branch& branch : statement.branches) {
    if (truth(evaluate(*branch.test))) return execute(branch.body);
  }
  return execute(statement.else_body);
}

bool Interpreter::next_item(Loop& loop, Value& out) {
  if (loop.n_ahead_used < loop.ahead.size()) {
    out = loop.ahead[loop.n_ahead_used++];
    return true;
  }
  while (loop.cursor.next(*this, out)) {
    if (loop.filter == nullptr) return true;
    Frame* const caller = std::exchange(frame_, loop.frame);
    assign(*loop.filter->test_target, out);
    const bool selected = truth(evaluate(*loop.filter->test));
    frame_ = caller;
    if (selected) return true;
  }
  return false;
}

bool Interpreter::advance_loop(Loop& loop) {
  Value item;
  if (!next_item(loop, item)) return false;
  ++loop.index0;
  loop.before = loop.current;
  loop.current = item;
  return true;
}

int64_t Interpreter::loop_length(Loop& loop) {
  if (loop.length >= 0) return loop.length;
  if (loop.filter == nullptr && !loop.iterable.is(Kind::iterator)) {
    loop.length = length(*this, loop.iterable);
    return loop.length;
  }
  // A generator: its rest is read now and kept.
  const size_t first = loop.n_ahead_used;
  std::vector<Value> rest(loop.ahead.begin() + static_cast<ptrdiff_t>(first), loop.ahead.end());
  loop.ahead.clear();
  loop.n_ahead_used = 0;
  Value item;
  while (next_item(loop, item)) {
    heap().charge(sizeof(Value));
    rest.push_back(item);
  }
  loop.ahead = std::move(rest);
  loop.length = loop.index0 + 1 + static_cast<int64_t>(loop.ahead.size());
  return loop.length;
}

Interpreter::Flow Interpreter::execute_for(const Stmt& statement) {
  const Value iterable = evaluate(*statement.value);
  Loop& loop = *heap().make<Loop>(*this, iterable);
  if (statement.test != nullptr) {
    loop.filter = &statement;
    loop.frame = frame_;
    enter(statement.test_loads);
  }
  const Value loop_value = Value::from_object(Kind::loop, &loop);
  bool finished_a_round =
      false;  // jinja2's else asks for this, so that break and continue can bring it about
  while (advance_loop(loop)) {
    enter(statement.loads);
    assign(*statement.targets[0], loop.current);
    if (statement.loop_slot >= 0) frame_->slots[static_cast<size_t>(statement.loop_slot)] = loop_value;
    const Flow flow = execute(statement.body);
    if (flow == Flow::break_loop) break;
    finished_a_round = finished_a_round || flow == Flow::normal;
  }
  leave(statement.loads);
  if (finished_a_round) return Flow::normal;
  enter(statement.else_loads);
  const Flow flow = execute(statement.else_body);
  leave(statement.else_loads);
  return flow;
}

Interpreter::Flow Interpreter::execute_with(const Stmt& statement) {
  enter(statement.loads);
  for (size_t i = 0; i < statement.targets.size(); ++i) {
    assign(*statement.targets[i], evaluate(*statement.expressions[i]));
  }
  const Flow flow = execute(statement.body);
  leave(statement.loads);
  return flow;
}

Interpreter::Flow Interpreter::execute_capture(const Stmt& statement) {
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  enter(statement.loads);
  const Flow flow = execute(statement.body);
  out_ = outer;
  if (flow != Flow::normal) return flow;  // what was captured goes with the loop's round
  Value value = string(std::move(text));
  if (statement.value != nullptr) {
    const Value previous = std::exchange(captured_, value);
    value = evaluate(*statement.value);
    captured_ = previous;
  }
  if (statement.type == StmtType::set_block) {
    check_name_spaces(*statement.targets[0]);
    assign(*statement.targets[0], value);
  } else {
    emit_string(value);
  }
  leave(statement.loads);
  return Flow::normal;
}

void Interpreter::emit_string(const Value& value) {
  if (!value.is(Kind::string)) {
    throw Fault(FaultKind::type, fmt::format("expected str instance, {} found", type_name(value)));
  }
  emit(value.view());
}

void Interpreter::check_name_spaces(const Expr& target) {
  if (target.type == ExprType::name_space_attribute) {
    if (!slot(target.ref).is(Kind::name_space)) {
      throw Fault(FaultKind::runtime, "cannot assign attribute on non-namespace object", target.line);
    }
  }
  for (const ExprPtr& part : target.operands) check_name_spaces(*part);
}

void Interpreter::execute_set(const Stmt& statement) {
  check_name_spaces(*statement.targets[0]);
  assign(*statement.targets[0], evaluate(*statement.value));
}

void Interpreter::assign(const Expr& target, const Value& value) {
  if (target.type == ExprType::name) {
    slot(target.ref) = value;
    return;
  }
  if (target.type == ExprType::name_space_attribute) {
    slot(target.ref).as<Namespace>().attributes.set(*this, string(target.attribute), value);
    return;
  }
  const size_t wanted = target.operands.size();
  if (!is_iterable(value)) {
    throw Fault(FaultKind::type, fmt::format("cannot unpack non-iterable {} object", type_name(value)));
  }
  std::vector<Value> items;
  Cursor cursor(*this, value);
  Value item;
  while (items.size() <= wanted && cursor.next(*this, item)) items.push_back(item);
  if (items.size() > wanted) {
    throw Fault(FaultKind::value, fmt::format("too many values to unpack (expected {})", wanted));
  }
  if (items.size() < wanted) {
    throw Fault(FaultKind::value,
                fmt::format("not enough values to unpack (expected {}, got {})", wanted, items.size()));
  }
  for (size_t i = 0; i < wanted; ++i) assign(*target.operands[i], items[i]);
}

Value Interpreter::define_macro(const MacroDefinition& definition) {
  auto* macro = heap().make<Macro>();
  macro->definition = &definition;
  macro->closure = frame_;
  return Value::from_object(Kind::macro, macro);
}

void Interpreter::execute_call_block(const Stmt& statement) {
  const Value caller = define_macro(*statement.macro);
  const Value value = statement.value == nullptr ? call_macro(caller.as<Macro>(), {})
                                                 : evaluate_call(*statement.value, &caller);
  emit_string(value);
}

void Interpreter::bind_arguments(const MacroDefinition& definition, const CallArgs& args, Frame& frame) {
  const auto& parameters = definition.parameters;
  std::vector<std::pair<std::string, Value>> keywords = args.keywords;
  const auto take_keyword = [&keywords](std::string_view name) {
    for (size_t i = 0; i < keywords.size(); ++i) {
      if (keywords[i].first != name) continue;
      const Value value = keywords[i].second;
      keywords.erase(keywords.begin() + static_cast<ptrdiff_t>(i));
      return value;
    }
    return Value();
  };
  for (size_t i = 0; i < parameters.size(); ++i) {
    frame.slots[static_cast<size_t>(parameters[i].slot)] =
        i < args.positional.size() ? args.positional[i] : take_keyword(parameters[i].name);
  }
  if (definition.caller_slot >= 0) {
    Value caller = take_keyword("caller");
    if (caller.is(Kind::missing) || caller.is(Kind::none)) caller = undefined("No caller defined");
    frame.slots[static_cast<size_t>(definition.caller_slot)] = caller;
  }
  if (definition.kwargs_slot >= 0) {
    auto* rest = heap().make<Dict>();
    for (const auto& [name, value] : keywords) rest->set(*this, string(name), value);
    frame.slots[static_cast<size_t>(definition.kwargs_slot)] = Value::from_object(Kind::dict, rest);
  } else if (!keywords.empty()) {
    throw Fault(FaultKind::type,
                fmt::format("macro '{}' takes no keyword argument '{}'", definition.name, keywords[0].first));
  }
  const size_t n_taken = std::min(parameters.size(), args.positional.size());
  if (definition.varargs_slot >= 0) {
    const auto begin = args.positional.begin() + static_cast<ptrdiff_t>(n_taken);
    frame.slots[static_cast<size_t>(definition.varargs_slot)] = tuple({begin, args.positional.end()});
  } else if (n_taken < args.positional.size()) {
    throw Fault(FaultKind::type, fmt::format("macro '{}' takes not more than {} argument(s)", definition.name,
                                             parameters.size()));
  }
}

Value Interpreter::call_macro(const Macro& macro, const CallArgs& args) {
  const Deeper deeper(*this);
  const MacroDefinition& definition = *macro.definition;
  auto* frame = heap().make<Frame>();
  heap().charge(static_cast<size_t>(definition.n_slots) * sizeof(Value));
  frame->slots.resize(static_cast<size_t>(definition.n_slots));
  frame->outer = macro.closure;
  bind_arguments(definition, args, *frame);
  std::string text;
  Frame* const caller_frame = std::exchange(frame_, frame);
  std::string* const caller_out = std::exchange(out_, &text);
  enter(definition.loads);
  for (const MacroParameter& parameter : definition.parameters) {
    Value& value = frame->slots[static_cast<size_t>(parameter.slot)];
    if (!value.is(Kind::missing)) continue;
    value = parameter.fallback != nullptr
                ? evaluate(*parameter.fallback)
                : undefined(fmt::format("parameter '{}' was not provided", parameter.name));
  }
  execute(definition.body);
  frame_ = caller_frame;
  out_ = caller_out;
  return string(std::move(text));
}

}  // namespace tandem::jinja
