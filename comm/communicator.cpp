// The part of Communicator that is the same for every implementation.
#include "comm/communicator.h"

namespace tandem {

std::vector<std::string> Communicator::gather_text(const std::string& mine) {
  std::vector<std::string> all(static_cast<size_t>(size()));
  for (int root = 0; root < size(); ++root) {
    uint64_t n_bytes = mine.size();
    broadcast(std::as_writable_bytes(std::span(&n_bytes, 1)), root);
    std::string& text = all[static_cast<size_t>(root)];
    text = root == rank() ? mine : std::string(n_bytes, '\0');
    if (n_bytes > 0) broadcast(std::as_writable_bytes(std::span(text.data(), text.size())), root);
  }
  return all;
}

}  // namespace tandem
