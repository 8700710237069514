#include "launch/batch/input.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ops/core/error.h"

namespace tandem {
namespace {

constexpr size_t kChunkBytes = size_t{1} << 20;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r") == std::string_view::npos;
}

/// Hears a JSON text and remembers one string of its outermost object.
class CustomIdListener : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool string(string_t& value) override {
    if (depth_ == 1 && is_named_) found_ = value;
    return true;
  }
  bool start_object(size_t) override { return start(true); }
  bool end_object() override { return end(); }
  bool start_array(size_t) override { return start(false); }
  bool end_array() override { return end(); }
  bool key(string_t& name) override {
    // Of a name that comes twice the last one counts, as everywhere in JSON here.
    if (depth_ == 1) is_named_ = name == "custom_id";
    if (depth_ == 1 && is_named_) found_.clear();
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

  const std::string& found() const { return found_; }

 private:
  bool start(bool is_object) { return (depth_++ > 0 || is_object); }
  bool end() {
    --depth_;
    return true;
  }

  int64_t depth_ = 0;
  bool is_named_ = false;
  std::string found_;
};

}  // namespace

std::string find_custom_id(std::string_view text) {
  CustomIdListener listener;
  return nlohmann::json::sax_parse(text, &listener) ? listener.found() : std::string();
}

/// The first reading: fed with the file's bytes in any pieces.
class BatchInput::Scan {
 public:
  explicit Scan(BatchInput& input) : input_(input) {}

  void feed(std::string_view bytes) {
    hasher_.add(bytes);
    while (!bytes.empty()) {
      const size_t n = std::min(bytes.find('\n'), bytes.size());
      const bool ends = n < bytes.size();
      take(bytes.substr(0, n));
      if (ends) end_line(1);
      bytes.remove_prefix(n + (ends ? 1 : 0));
    }
  }

  void finish() {
    if (n_bytes_ > 0) end_line(0);
    input_.hash_ = hasher_.result();
    input_.n_bytes_ = offset_;
    find_repeats();
  }

 private:
  void take(std::string_view bytes) {
    n_bytes_ += bytes.size();
    if (n_bytes_ <= kMostLineBytes) text_ += bytes;
  }

  void end_line(uint64_t n_end_bytes) {
    ++number_;
    const bool too_long = n_bytes_ > kMostLineBytes;
    uint64_t n_mark = 0;
    if (number_ == 1 && !too_long && text_.starts_with(kByteOrderMark)) {
      n_mark = kByteOrderMark.size();
      text_.erase(0, n_mark);
    }
    if (too_long || !is_blank(text_)) {
      if (!too_long && input_.kind_ == InputKind::requests) {
        const std::string name = find_custom_id(text_);
        if (!name.empty()) names_.push_back({hash128(name), input_.lines_.size()});
      }
      input_.lines_.push_back({offset_ + n_mark, n_bytes_ - n_mark, number_, too_long ? 0 : hash64(text_)});
    }
    offset_ += n_bytes_ + n_end_bytes;
    n_bytes_ = 0;
    text_.clear();
  }

  void find_repeats() {
    std::sort(names_.begin(), names_.end());
    for (size_t i = 1, first = 0; i < names_.size(); ++i) {
      if (names_[i].hash != names_[first].hash) {
        first = i;
        continue;
      }
      input_.repeats_.push_back({names_[i].index, input_.lines_[names_[first].index].number});
    }
    std::sort(input_.repeats_.begin(), input_.repeats_.end(),
              [](const Repeat& a, const Repeat& b) { return a.index < b.index; });
  }

  BatchInput& input_;
  Hasher hasher_;
  std::vector<Name> names_;
  std::string text_;      // of the line so far, while it isn't too long
  uint64_t n_bytes_ = 0;  // of the line so far
  uint64_t offset_ = 0;   // of the line
  uint64_t number_ = 0;   // of lines before it
};

BatchInput::BatchInput(std::string path, InputKind kind) : path_(std::move(path)), kind_(kind) {
  file_ = FileDescriptor(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file_.is_open()) fail_io(path_);
  struct stat info {};
  if (::fstat(file_.get(), &info) != 0) fail_io(path_);
  if (!S_ISREG(info.st_mode)) {
    throw Error(ExitCode::usage, path_ + ": not a regular file",
                "the input is read twice, so it can't come from a pipe");
  }
  Scan scan(*this);
  off_t offset = 0;
  while (true) {
    const std::string chunk = read_at(file_.get(), kChunkBytes, offset, path_);
    if (chunk.empty()) break;
    scan.feed(chunk);
    offset += static_cast<off_t>(chunk.size());
  }
  scan.finish();
}

InputLine BatchInput::line(uint64_t index) const {
  const Place& place = lines_.at(index);
  InputLine line;
  line.number = place.number;
  line.too_long = place.n_bytes > kMostLineBytes;
  const auto repeat = std::lower_bound(repeats_.begin(), repeats_.end(), index,
                                       [](const Repeat& a, uint64_t i) { return a.index < i; });
  if (repeat != repeats_.end() && repeat->index == index) line.repeats = repeat->first_number;
  if (line.too_long) return line;
  line.text = read_at(file_.get(), place.n_bytes, static_cast<off_t>(place.offset), path_);
  if (hash64(line.text) != place.hash) {
    throw Error(ExitCode::bad_data, path_ + ": it was changed while it was worked on",
                "start again; nothing of another input is kept");
  }
  if (!line.text.empty() && line.text.back() == '\r') line.text.pop_back();
  return line;
}

}  // namespace tandem
