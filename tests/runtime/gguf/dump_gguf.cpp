// Prints what runtime/gguf says about a file, one line an entry, for check_against_package.py. Not a product.
//   kv <key> <type> <value…>     tensor <name> <type> <dims> <file> <offset> <bytes>
// Strings are in hex, floats as their IEEE-754 bits.
#include <fmt/format.h>

#include <bit>
#include <cstdio>
#include <exception>

#include "runtime/gguf/gguf.h"

namespace {

std::string hex(std::string_view text) {
  std::string digits = "x";
  for (const char c : text) digits += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return digits;
}

template <class T>
std::string show(const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    return hex(value);
  } else if constexpr (std::is_same_v<T, double>) {
    return fmt::format("{:016x}", std::bit_cast<uint64_t>(value));
  } else if constexpr (std::is_same_v<T, float>) {
    return fmt::format("{:016x}", std::bit_cast<uint64_t>(double{value}));
  } else if constexpr (std::is_same_v<T, bool>) {
    return value ? "1" : "0";
  } else if constexpr (std::is_same_v<T, tandem::GgufArray>) {
    std::string line = fmt::format("{}", value.size());
    std::visit(
        [&](const auto& list) {
          for (const auto& element : list) line.append(1, ' ').append(show(element));
        },
        value.values);
    return line;
  } else {
    return fmt::format("{}", static_cast<std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>(value));
  }
}

void dump(const tandem::GgufFile& file) {
  fmt::print("version {}\n", file.version());
  for (const auto& [key, value] : file.metadata()) {
    std::string type = type_name(value);
    if (const auto space = type.rfind(' '); space != std::string::npos)
      type = fmt::format("array:{}", type.substr(space + 1));
    const std::string text = std::visit([](const auto& held) { return show(held); }, value.value);
    fmt::print("kv {} {} {}\n", hex(key), type, text);
  }
  for (const tandem::GgufTensor& tensor : file.tensors()) {
    fmt::print("tensor {} {} {} {} {} {}\n", hex(tensor.name), tandem::type_info(tensor.type).name,
               fmt::join(tensor.shape, "x"), tensor.file_index, tensor.file_offset, tensor.n_bytes);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 64;
  try {
    dump(tandem::GgufFile::open(argv[1]));
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 65;
  }
  return 0;
}
