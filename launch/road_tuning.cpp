#include "launch/road_tuning.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <vector>

namespace tandem {
namespace {

using Clock = std::chrono::steady_clock;
using cuda::Product;
using cuda::RoadKey;
using cuda::Roads;
using cuda::RoadTable;

constexpr double kMostSeconds = 2.0;  ///< of measurements; what is left over is measured by the next job
constexpr size_t kMostFileBytes = size_t{1} << 20;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The file's table, or an empty one.
RoadTable read_table(const std::string& path, const cuda::RoadOrigin& origin) {
  std::ifstream file(path, std::ios::binary);
  if (path.empty() || !file) return {};
  std::string text(kMostFileBytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  std::string fault;
  const std::optional<RoadTable> table = RoadTable::parse(text, origin, fault);
  if (!fault.empty()) spdlog::warn("{} is ignored and written anew: {}", path, fault);
  return table.value_or(RoadTable());
}

/// Why the table isn't kept; empty where it is. Readers see the old file or the new one.
std::string write_table(const std::string& path, const RoadTable& table, const cuda::RoadOrigin& origin) {
  if (path.empty()) return "there is no cache folder";
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (error) return fmt::format("{}: {}", path, error.message());
  const std::string partial = fmt::format("{}.{}", path, getpid());
  std::ofstream file(partial, std::ios::binary);
  file << table.text(origin);
  file.close();
  if (file && std::rename(partial.c_str(), path.c_str()) == 0) return "";
  std::string why = fmt::format("{}: {}", path, std::strerror(errno));
  std::remove(partial.c_str());
  return why;
}

/// Rank 0's part: the table, and each product's roads by it.
class RoadChoice {
 public:
  RoadChoice(cuda::RoadTuner& tuner, std::span<const Product> products, const RoadRequest& request)
      : path_(road_file(request)), table_(read_table(path_, request.origin)) {
    for (const Product& product : products) {
      const std::optional<RoadKey> key = tuner.key_of(product);
      keys_.push_back(key);
      if (key) alike_[*key].push_back(product);
    }
    const auto start = Clock::now();
    for (const auto& [key, alike] : alike_) {
      if (!request.again && table_.find(key)) continue;
      const std::optional<Roads> roads =
          seconds_since(start) < kMostSeconds ? tuner.measure(alike) : std::nullopt;
      if (roads) {
        table_.set(key, *roads);
        ++n_measured_;
      } else if (!table_.find(key)) {
        ++n_left_;
      }
    }
    seconds_ = seconds_since(start);
    if (n_measured_ > 0) fault_ = write_table(path_, table_, request.origin);
  }

  std::optional<Roads> of(size_t product) const {
    return keys_[product] ? table_.find(*keys_[product]) : std::nullopt;
  }

  std::string line() const {
    std::string text = fmt::format("roads of {} products: ", alike_.size());
    if (n_measured_ == 0) {
      text += alike_.size() == n_left_ ? "built in" : "from " + path_;
    } else {
      text += fmt::format("{} measured in {:.2f} s, ", n_measured_, seconds_);
      text += fault_.empty() ? "kept in " + path_ : "not kept: " + fault_;
    }
    if (n_left_ > 0 && n_left_ < alike_.size()) text += fmt::format("; {} built in", n_left_);
    return text;
  }

 private:
  std::string path_;
  RoadTable table_;
  std::vector<std::optional<RoadKey>> keys_;  // (products)
  std::map<RoadKey, std::vector<Product>> alike_;
  size_t n_measured_ = 0;
  size_t n_left_ = 0;  ///< that are in no table
  double seconds_ = 0.0;
  std::string fault_;
};

}  // namespace

std::string cache_folder() {
  if (const char* folder = std::getenv("TANDEM_CACHE"); folder != nullptr && *folder != '\0') return folder;
  for (const auto& [variable, below] : {std::pair{"XDG_CACHE_HOME", "/tandem"}, {"HOME", "/.cache/tandem"}}) {
    const char* folder = std::getenv(variable);
    if (folder != nullptr && *folder != '\0') return std::string(folder) + below;
  }
  return "";
}

std::string road_file(const RoadRequest& request) {
  if (request.folder.empty()) return "";
  std::string device = request.origin.device;
  for (char& c : device) c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '-';
  return fmt::format("{}/roads-{}-np{}.json", request.folder, device, request.origin.n_ranks);
}

std::string tune_roads(cuda::RoadTuner& tuner, std::span<const Product> products, const RoadRequest& request,
                       Communicator& communicator) {
  constexpr Roads kUntouched{-1, -1};
  std::vector<Roads> chosen(products.size(), kUntouched);
  std::string line;
  if (communicator.rank() == 0) {
    const RoadChoice choice(tuner, products, request);
    for (size_t i = 0; i < products.size(); ++i) chosen[i] = choice.of(i).value_or(kUntouched);
    line = choice.line();
  }
  communicator.broadcast(std::as_writable_bytes(std::span(chosen)), 0);
  for (size_t i = 0; i < products.size(); ++i) {
    if (chosen[i] != kUntouched) tuner.set_roads(products[i], chosen[i]);
  }
  return line;
}

}  // namespace tandem
