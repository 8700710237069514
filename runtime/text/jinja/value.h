// The values that a template computes with: Python's, as far as chat templates see them. A Value is 16 bytes,
// copied freely; what it points to lives in a Heap until the run's end, so that no chain of references that a
// hostile template builds is ever walked by destructors, and cycles don't leak.
// Used by all of runtime/text/jinja only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/text/jinja/fault.h"

namespace tandem::jinja {

class Runtime;
struct MacroDefinition;
struct Frame;

enum class Kind : uint8_t {
  missing,  ///< no value at all: a slot that was never assigned (never seen by a template)
  undefined,
  none,
  boolean,
  integer,
  real,
  string,
  list,
  tuple,
  dict,
  range,
  view,        ///< dict.keys(), values(), items()
  iterator,    ///< a generator or another one-pass iterator
  name_space,  ///< namespace(): the only thing that a template can change
  macro,
  method,  ///< a method bound to its object
  function,
  loop,  ///< the variable `loop`
  cycler,
  joiner,
};

struct Object {
  Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  virtual ~Object() = default;
};

struct Text;
struct Sequence;
struct Dict;
struct Range;
struct View;
struct Iterator;
struct Namespace;
struct Macro;
struct Method;
struct Function;
struct Loop;
struct Cycler;
struct Joiner;
struct UndefinedInfo;

struct Value {
  Kind kind = Kind::missing;
  union {
    bool boolean;
    int64_t integer = 0;
    double real;
    Object* object;
  };

  static Value none() { return with_kind(Kind::none); }
  static Value from_bool(bool b) {
    Value v = with_kind(Kind::boolean);
    v.boolean = b;
    return v;
  }
  static Value from_int(int64_t i) {
    Value v = with_kind(Kind::integer);
    v.integer = i;
    return v;
  }
  static Value from_real(double d) {
    Value v = with_kind(Kind::real);
    v.real = d;
    return v;
  }
  static Value from_object(Kind kind, Object* object) {
    Value v = with_kind(kind);
    v.object = object;
    return v;
  }

  bool is(Kind k) const { return kind == k; }
  bool is_sequence() const { return kind == Kind::list || kind == Kind::tuple; }
  bool is_int_like() const { return kind == Kind::integer || kind == Kind::boolean; }
  bool is_number() const { return is_int_like() || kind == Kind::real; }
  /// Of an integer or, as in Python, of a bool.
  int64_t as_int() const { return kind == Kind::boolean ? static_cast<int64_t>(boolean) : integer; }
  double as_real() const { return kind == Kind::real ? real : static_cast<double>(as_int()); }

  const Text& text() const;  ///< string only; the accessors below likewise
  std::string_view view() const;
  const Sequence& sequence() const;
  const Dict& dict() const;
  template <class T>
  T& as() const {
    return *static_cast<T*>(object);
  }

 private:
  static Value with_kind(Kind kind) {
    Value v;
    v.kind = kind;
    return v;
  }
};

/// A string: valid UTF-8, counted in code points as Python does.
struct Text : Object {
  explicit Text(std::string bytes_in);
  std::string bytes;
  size_t n_chars;
  bool markup = false;  ///< markupsafe's Markup: made by |safe and |escape
  bool ascii() const { return n_chars == bytes.size(); }
};

struct Sequence : Object {
  std::vector<Value> items;
  bool grouped = false;  ///< groupby's (grouper, list) tuple
};

/// Python's dict: insertion order kept, keys of any hashable kind.
struct Dict : Object {
  std::vector<std::pair<Value, Value>> entries;
  /// Null where there is none. Throws Fault(type) for an unhashable key.
  const Value* find(Runtime& runtime, const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(Runtime& runtime, const Value& key, const Value& value);

 private:
  static constexpr size_t kIndexFrom = 12;         ///< smaller ones are searched one by one
  std::unordered_multimap<size_t, size_t> index_;  ///< hash of the key -> entry
};

struct Range : Object {
  int64_t start = 0, stop = 0, step = 1;
  int64_t length = 0;
  int64_t at(int64_t i) const { return start + i * step; }
};

struct View : Object {
  enum class Part { keys, values, items };
  const Dict* dict = nullptr;
  Part part = Part::keys;
};

struct Iterator : Object {
  using Advance = std::function<bool(Runtime&, Value& out)>;
  Advance advance;  ///< false at the end
  std::string_view type_name;
};

struct Namespace : Object {
  Dict attributes;
};

struct Macro : Object {
  const MacroDefinition* definition = nullptr;
  Frame* closure = nullptr;
};

/// Arguments of a call of a filter, test, method, function or macro.
struct CallArgs {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;
};

using MethodFunction = Value (*)(Runtime&, const Value& self, const CallArgs&);
using GlobalFunction = Value (*)(Runtime&, const CallArgs&);

struct Method : Object {
  Value self;
  std::string_view name;  ///< static storage
  MethodFunction function = nullptr;
};

struct Function : Object {
  std::string_view name;  ///< static storage
  GlobalFunction function = nullptr;
};

struct Cycler : Object {
  std::vector<Value> items;
  size_t position = 0;
};

struct Joiner : Object {
  Value separator;
  bool used = false;
};

struct UndefinedInfo : Object {
  std::string message;
  bool security = false;  ///< the sandbox made it
};

/// Owner of everything that one run (or one program's literals) allocates.
class Heap {
 public:
  explicit Heap(size_t max_bytes) : bytes_left_(max_bytes) {}

  /// Counts `bytes` against the bound before they are allocated. Throws Fault(limit).
  void charge(size_t bytes);

  template <class T, class... Args>
  T* make(Args&&... args) {
    charge(sizeof(T) + sizeof(void*));
    auto owned = std::make_unique<T>(std::forward<Args>(args)...);
    T* object = owned.get();
    objects_.push_back(std::move(owned));
    return object;
  }

  Value string(std::string bytes, bool markup = false);
  /// One character's string; those of ASCII are made once.
  Value character(std::string_view bytes);
  Value sequence(Kind kind, std::vector<Value> items);
  Value list(std::vector<Value> items) { return sequence(Kind::list, std::move(items)); }
  Value tuple(std::vector<Value> items) { return sequence(Kind::tuple, std::move(items)); }

 private:
  std::vector<std::unique_ptr<Object>> objects_;
  std::array<Text*, 128> ascii_{};
  size_t bytes_left_;
};

/// Python's name of the value's type.
std::string_view type_name(const Value& value);

}  // namespace tandem::jinja
