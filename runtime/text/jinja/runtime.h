// One run of a template as the operators, filters and methods see it: memory, bounds, the clock, and how to
// call back into the interpreter. The interpreter derives from it.
#pragma once

#include <ctime>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "runtime/text/jinja/value.h"

namespace tandem::jinja {

struct Stmt;

struct RunLimits {
  int64_t max_steps;
  int max_depth;
  size_t max_output_bytes;
  size_t max_memory_bytes;
};

class Runtime {
 public:
  using Clock = std::function<std::tm()>;

  Runtime(const RunLimits& limits, const Clock& clock)
      : heap_(limits.max_memory_bytes),
        steps_left_(limits.max_steps),
        depth_left_(limits.max_depth),
        max_output_bytes_(limits.max_output_bytes),
        clock_(clock) {}
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  Heap& heap() { return heap_; }
  std::tm now() const { return clock_(); }
  size_t max_output_bytes() const { return max_output_bytes_; }

  /// Counts work: one step is about one node of the program or one element of a sequence. Throws
  /// Fault(limit).
  void step(int64_t n = 1) {
    steps_left_ -= n;
    if (steps_left_ < 0) throw Fault(FaultKind::limit, "the template takes more steps than its limit allows");
  }
  /// Counts the work of looking at `bytes` of a string.
  void scan(size_t bytes) { step(static_cast<int64_t>(bytes / 256)); }

  Value string(std::string bytes, bool markup = false) { return heap_.string(std::move(bytes), markup); }
  Value list(std::vector<Value> items) { return heap_.list(std::move(items)); }
  Value tuple(std::vector<Value> items) { return heap_.tuple(std::move(items)); }
  Value undefined(std::string message, bool security = false);
  Value iterator(std::string_view type, Iterator::Advance advance);

  /// Calls a macro, method or function of the template. Throws Fault(type) where `callee` isn't callable.
  virtual Value call(const Value& callee, const CallArgs& args) = 0;
  /// The variable `loop`'s attribute, or missing.
  virtual Value loop_attribute(Loop& loop, std::string_view name) = 0;
  virtual int64_t loop_length(Loop& loop) = 0;
  virtual int64_t loop_index(const Loop& loop) = 0;

  /// One level of recursion; throws Fault(limit) where it is too deep.
  class Deeper {
   public:
    explicit Deeper(Runtime& runtime) : runtime_(runtime) {
      if (runtime_.depth_left_ <= 0)
        throw Fault(FaultKind::limit, "the template nests deeper than its limit allows");
      --runtime_.depth_left_;
    }
    ~Deeper() { ++runtime_.depth_left_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Runtime& runtime_;
  };

 protected:
  ~Runtime() = default;

 private:
  Heap heap_;
  int64_t steps_left_;
  int depth_left_;
  size_t max_output_bytes_;
  const Clock& clock_;
};

/// Walks anything that Python's iter() takes, once.
class Cursor {
 public:
  /// Throws Fault(type) where `iterable` can't be iterated, Fault(undefined) never (it is empty).
  Cursor(Runtime& runtime, const Value& iterable);
  /// False at the end.
  bool next(Runtime& runtime, Value& out);

 private:
  Value source_;
  size_t index_ = 0;  ///< of the next item; for strings the byte
};

/// The variable `loop`, and the state of every for statement.
struct Loop : Object {
  Loop(Runtime& runtime, const Value& iterable_in) : cursor(runtime, iterable_in), iterable(iterable_in) {}
  Cursor cursor;
  Value iterable;
  const Stmt* filter = nullptr;  ///< the statement whose `if` selects the items
  Frame* frame = nullptr;        ///< in which it does
  std::vector<Value> ahead;      ///< read from the cursor already
  size_t n_ahead_used = 0;
  Value before;  ///< missing in the first round
  Value current;
  Value changed_value;  ///< of loop.changed()
  int64_t index0 = -1;
  int64_t length = -1;  ///< -1: not counted yet
};

/// Everything that `iterable` yields.
std::vector<Value> collect(Runtime& runtime, const Value& iterable);

/// Reads a call's arguments against a signature. `names[i]` may be empty for "positional only".
/// Throws Fault(type) for too few or too many, unknown or doubled arguments.
class Arguments {
 public:
  Arguments(std::string_view callee, const CallArgs& args, std::span<const std::string_view> names,
            size_t n_required = 0);
  Arguments(std::string_view callee, const CallArgs& args, std::initializer_list<std::string_view> names,
            size_t n_required = 0)
      : Arguments(callee, args, std::span(names.begin(), names.size()), n_required) {}

  /// Missing (Kind::missing) where it wasn't given.
  const Value& operator[](size_t i) const { return values_[i]; }
  bool given(size_t i) const { return !values_[i].is(Kind::missing); }
  Value get(size_t i, const Value& fallback) const { return given(i) ? values_[i] : fallback; }
  bool truth(size_t i, bool fallback) const;
  /// An integer as Python's __index__ takes it. Throws Fault(type).
  int64_t integer(size_t i, int64_t fallback) const;
  /// Throws Fault(type) where it isn't a string.
  const Text& text(size_t i) const;

 private:
  std::string_view callee_;
  std::vector<Value> values_;
};

/// For calls that take none.
void refuse_arguments(std::string_view callee, const CallArgs& args);

}  // namespace tandem::jinja
