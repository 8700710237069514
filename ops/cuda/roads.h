// By which of its kernels (products.h) the CUDA backend multiplies so many tokens: two numbers a product, the
// built-in ones, the table of measured ones, and who measures them. Plain, compiled in every build. Used by
// ops/cuda/products and launch/road_tuning; must know neither devices nor files.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ops/quant/tensor_type.h"

namespace tandem {
class Matrix;
}

namespace tandem::cuda {

enum class Road : uint8_t { gemv, batch, unpacked };

/// Roads that were taken.
class RoadSet {
 public:
  void add(Road road) { bits_ |= 1U << static_cast<unsigned>(road); }
  void add(const RoadSet& others) { bits_ |= others.bits_; }
  /// "gemv", "gemv+batch", …; empty where none was.
  std::string text() const;

 private:
  unsigned bits_ = 0;
};

/// To how many tokens a product takes the first two roads; more take the third. Where the device has no batch
/// kernel for the format the second counts for nothing, where it lacks the third it has no end.
struct Roads {
  int32_t gemv = 0;   ///< 0 to kMostGemv
  int32_t batch = 0;  ///< kLeastBatch to kMostBatch

  static constexpr int32_t kMostGemv = 64;
  static constexpr int32_t kLeastBatch = 64;  ///< steps that are recorded have no more tokens
  static constexpr int32_t kMostBatch = 256;
  bool operator==(const Roads&) const = default;
};

/// What the device has for many tokens of a format beside unpacking.
enum class BatchCode : uint8_t { none, warps, warpgroups };

/// Where nothing was measured.
Roads built_in_roads(TensorType type, BatchCode batch);

/// Matrices that are multiplied with one input at once (q·k·v, gate·up), in their order.
struct Product {
  std::vector<Matrix*> parts;
  bool of_expert = false;    ///< one of a mixture's: with few tokens it has a road of its own
  bool behind_gate = false;  ///< down: its input is gate·up's output
};

/// What a product's time depends on: formats and shapes as they lie on the device.
struct RoadKey {
  struct Part {
    TensorType type = TensorType::f32;
    int64_t n_rows = 0;
    auto operator<=>(const Part&) const = default;
  };
  std::vector<Part> parts;  ///< those that have rows
  int64_t n_cols = 0;
  bool wide = false;
  bool of_expert = false;
  auto operator<=>(const RoadKey&) const = default;
};

/// What a table holds for. Another driver, version or device makes other times.
struct RoadOrigin {
  std::string device;   ///< "NVIDIA H100 80GB HBM3"
  std::string driver;   ///< "580.65.06", or empty
  std::string version;  ///< of tandem
  int n_ranks = 1;
  bool operator==(const RoadOrigin&) const = default;
};

class RoadTable {
 public:
  std::optional<Roads> find(const RoadKey& key) const;
  void set(const RoadKey& key, const Roads& roads) { roads_[key] = roads; }
  size_t size() const { return roads_.size(); }

  /// A JSON document.
  std::string text(const RoadOrigin& origin) const;
  /// text()'s table; nothing where it holds for something else, or where the text is no such document:
  /// `fault` then says what is wrong with it, and is empty otherwise.
  static std::optional<RoadTable> parse(const std::string& text, const RoadOrigin& origin,
                                        std::string& fault);

  bool operator==(const RoadTable&) const = default;

 private:
  std::map<RoadKey, Roads> roads_;
};

/// The times of a product on two neighbouring roads.
struct RoadTimes {
  int32_t n_tokens = 0;
  double lower_us = 0;  ///< on the road for fewer tokens
  double upper_us = 0;
};

/// The most tokens for which the lower road is worth taking: the last of `times` (by ascending tokens) before
/// the first at which it isn't; `least` where there is none. A road other than the built-in one (lower to
/// `built_in` tokens) has to be faster by more than a twentieth: within that a run's noise decides, and what
/// a product alone doesn't show, as what GEMV's epilogue does with its rows: it rounds them or sends them to
/// peers.
int32_t last_on_lower_road(int32_t least, int32_t built_in, std::span<const RoadTimes> times);

/// A backend whose products have several roads. Matrices are its own, loaded; allocate() was called.
class RoadTuner {
 public:
  virtual ~RoadTuner() = default;
  /// Nothing where the product isn't measured: it has no rows here, or its formats don't go together.
  virtual std::optional<RoadKey> key_of(const Product& product) const = 0;
  /// Roads of products of one key, which are multiplied in turn, so that caches don't help. Nothing where
  /// memory for the measurement is short. Between steps; takes some tens of milliseconds.
  virtual std::optional<Roads> measure(std::span<const Product> alike) = 0;
  /// Gives the product those roads from now on; before the first step, the same on every rank.
  virtual void set_roads(const Product& product, const Roads& roads) = 0;
  /// What the layers' products have taken since this was last called.
  virtual RoadSet take_roads() = 0;
};

}  // namespace tandem::cuda
