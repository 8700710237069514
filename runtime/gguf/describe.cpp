#include "runtime/gguf/describe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <vector>

#include "runtime/gguf/printable.h"

namespace tandem {
namespace {

constexpr double kBytesPerGib = 1024.0 * 1024.0 * 1024.0;
constexpr size_t kNameCharacters = 255;

/// Lays rows of cells out in columns.
class Table {
 public:
  /// `alignments`: '<' or '>' a column.
  Table(std::string_view alignments, std::vector<std::string> head) : alignments_(alignments) {
    add(std::move(head));
  }
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

  std::string text() const {
    std::vector<size_t> widths(alignments_.size());
    for (const auto& row : rows_) {
      for (size_t i = 0; i + 1 < row.size(); ++i) widths[i] = std::max(widths[i], count_characters(row[i]));
      if (alignments_.back() == '>') widths.back() = std::max(widths.back(), count_characters(row.back()));
    }
    std::string lines;
    for (const auto& row : rows_) {
      for (size_t i = 0; i < row.size(); ++i) {
        const size_t n_spaces = widths[i] - std::min(widths[i], count_characters(row[i]));
        const bool is_last = i + 1 == row.size();
        if (alignments_[i] == '>') lines.append(n_spaces, ' ');
        lines += row[i];
        if (alignments_[i] == '<' && !is_last) lines.append(n_spaces, ' ');
        lines += is_last ? "\n" : "  ";
      }
    }
    return lines;
  }

 private:
  static size_t count_characters(const std::string& text) {
    return static_cast<size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
  }

  std::string_view alignments_;
  std::vector<std::vector<std::string>> rows_;
};

template <class T>
std::string show(const T& value, const DescribeOptions& options) {
  if constexpr (std::is_same_v<T, std::string>) {
    return printable(value, options.max_characters);
  } else if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else {
    return fmt::format("{}", value);
  }
}

std::string show_array(const GgufArray& array, const DescribeOptions& options) {
  const auto show_list = [&](const auto& list) {
    using Element = typename std::remove_cvref_t<decltype(list)>::value_type;
    constexpr bool kIsText = std::is_same_v<Element, std::string>;
    std::string line = "[";
    for (size_t i = 0; i < std::min(list.size(), options.max_elements); ++i) {
      if (i > 0) line += ", ";
      if constexpr (kIsText) {
        line += fmt::format("\"{}\"", show(list[i], options));
      } else if (array.element_type == GgufType::boolean) {
        line += show(list[i] != 0, options);
      } else {
        line += show(list[i], options);
      }
    }
    if (list.size() > options.max_elements) line += fmt::format(", … {} in all", list.size());
    return line + "]";
  };
  return std::visit(show_list, array.values);
}

std::string show_value(const GgufValue& value, const DescribeOptions& options) {
  if (const GgufArray* array = std::get_if<GgufArray>(&value.value)) return show_array(*array, options);
  // A float is shown with the digits that it has.
  if (value.type == GgufType::f32) return show(static_cast<float>(std::get<double>(value.value)), options);
  const auto show_scalar = [&](const auto& held) -> std::string {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(held)>, GgufArray>) {
      return {};
    } else {
      return show(held, options);
    }
  };
  return std::visit(show_scalar, value.value);
}

double bits_per_weight(uint64_t n_bytes, uint64_t n_elements) {
  return n_elements == 0 ? 0 : 8.0 * static_cast<double>(n_bytes) / static_cast<double>(n_elements);
}

struct Sum {
  uint64_t n_tensors = 0;
  uint64_t n_elements = 0;
  uint64_t n_bytes = 0;
  void add(const GgufTensor& tensor) {
    ++n_tensors;
    n_elements += static_cast<uint64_t>(tensor.n_elements());
    n_bytes += tensor.n_bytes;
  }
};

std::string describe_types(const std::vector<GgufTensor>& tensors) {
  std::map<std::string_view, Sum> sums;
  Sum total;
  for (const GgufTensor& tensor : tensors) {
    sums[type_info(tensor.type).name].add(tensor);
    total.add(tensor);
  }
  std::vector<std::pair<std::string_view, Sum>> by_size(sums.begin(), sums.end());
  std::stable_sort(by_size.begin(), by_size.end(),
                   [](const auto& a, const auto& b) { return a.second.n_bytes > b.second.n_bytes; });
  Table table("<>>>>>", {"TYPE", "TENSORS", "WEIGHTS", "BITS/WEIGHT", "BYTES", "GiB"});
  const auto add = [&](std::string_view name, const Sum& sum) {
    table.add({std::string(name), fmt::format("{}", sum.n_tensors), fmt::format("{}", sum.n_elements),
               fmt::format("{:.2f}", bits_per_weight(sum.n_bytes, sum.n_elements)),
               fmt::format("{}", sum.n_bytes),
               fmt::format("{:.3f}", static_cast<double>(sum.n_bytes) / kBytesPerGib)});
  };
  for (const auto& [name, sum] : by_size) add(name, sum);
  add("total", total);
  return table.text();
}

}  // namespace

std::string format_bytes(uint64_t n_bytes) {
  constexpr std::array kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (n_bytes < 1024) return fmt::format("{} B", n_bytes);
  double size = static_cast<double>(n_bytes) / 1024;
  size_t unit = 0;
  // 1023.995 would be printed as 1024.00.
  while (size >= 1023.995 && unit + 1 < kUnits.size()) {
    size /= 1024;
    ++unit;
  }
  return fmt::format("{:.2f} {}", size, kUnits[unit]);
}

std::string describe_metadata(const GgufFile& file, const DescribeOptions& options) {
  const std::string parts = file.paths().size() == 1 ? "" : fmt::format(" in {} files", file.paths().size());
  std::string text = fmt::format("GGUF version {}, {} keys, {} tensors, {} bytes ({}){}\n\n", file.version(),
                                 file.metadata().size(), file.tensors().size(), file.total_bytes(),
                                 format_bytes(file.total_bytes()), parts);
  Table table("<<<", {"KEY", "TYPE", "VALUE"});
  for (const auto& [key, value] : file.metadata()) {
    table.add({printable(key, kNameCharacters), type_name(value), show_value(value, options)});
  }
  return text + table.text();
}

std::string describe_tensors(const GgufFile& file) {
  const bool has_parts = file.paths().size() > 1;
  std::vector<std::string> head = {"TENSOR", "SHAPE", "TYPE", "BITS/WEIGHT", "BYTES", "SIZE"};
  if (has_parts) head.emplace_back("FILE");
  Table table(has_parts ? "<<<>>>>" : "<<<>>>", std::move(head));
  for (const GgufTensor& tensor : file.tensors()) {
    const auto n_elements = static_cast<uint64_t>(tensor.n_elements());
    std::vector<std::string> cells = {
        printable(tensor.name, kNameCharacters),
        tensor.shape.empty() ? "scalar" : fmt::format("{}", fmt::join(tensor.shape, " × ")),
        std::string(type_info(tensor.type).name),
        fmt::format("{:.2f}", bits_per_weight(tensor.n_bytes, n_elements)),
        fmt::format("{}", tensor.n_bytes),
        format_bytes(tensor.n_bytes)};
    if (has_parts) cells.push_back(fmt::format("{}", tensor.file_index + 1));
    table.add(std::move(cells));
  }
  return table.text() + "\n" + describe_types(file.tensors());
}

}  // namespace tandem
