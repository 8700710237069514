// A batch's input: a file of lines, one request each, or of prompts. Read twice: once from end to end for its
// hash and for where its lines are, then line by line as they are worked on, so that the file may be larger
// than the memory. Used by launch/batch and launch/commands/batch.cpp on rank 0.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/batch/disk.h"
#include "launch/hash.h"

namespace tandem {

enum class InputKind : uint8_t {
  requests,  ///< a JSON object a line
  prompts,   ///< a text a line
};

inline constexpr uint64_t kMostLineBytes = uint64_t{16} << 20;  ///< of a line that is read at all

/// What stands on a line that is not blank.
struct InputLine {
  uint64_t number = 0;  ///< in the file, the first is 1
  std::string text;     ///< without the line's end; empty where it is too long
  bool too_long = false;
  /// The line whose custom_id this one repeats; 0: none.
  uint64_t repeats = 0;
};

class BatchInput {
 public:
  /// Reads the whole file once. Throws Error{io} where it can't be read, Error{usage} where it is no file
  /// that can be read twice.
  BatchInput(std::string path, InputKind kind);

  InputKind kind() const { return kind_; }
  uint64_t n_lines() const { return lines_.size(); }  ///< blank ones aside
  uint64_t n_bytes() const { return n_bytes_; }
  const Hash128& hash() const { return hash_; }

  /// The line number in the file of the line with this index.
  uint64_t number(uint64_t index) const { return lines_.at(index).number; }
  /// The line with this index. Throws Error{bad_data} where the file was changed since it was read first.
  InputLine line(uint64_t index) const;

 private:
  struct Place {
    uint64_t offset = 0;
    uint64_t n_bytes = 0;
    uint64_t number = 0;
    uint64_t hash = 0;
  };
  /// A custom_id, for finding those that come twice.
  struct Name {
    Hash128 hash;
    uint64_t index = 0;  // of the line
    auto operator<=>(const Name&) const = default;
  };
  struct Repeat {
    uint64_t index = 0;
    uint64_t first_number = 0;
  };
  class Scan;

  std::string path_;
  InputKind kind_;
  FileDescriptor file_;
  uint64_t n_bytes_ = 0;
  Hash128 hash_;
  std::vector<Place> lines_;
  std::vector<Repeat> repeats_;  // in the order of indices
};

/// The value of the key "custom_id" of the JSON object that `text` is; empty where it isn't one, or has no
/// such string. Builds no tree.
std::string find_custom_id(std::string_view text);

}  // namespace tandem
