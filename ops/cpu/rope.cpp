#include "ops/cpu/rope.h"

#include <cmath>
#include <numeric>

#include "ops/core/check.h"
#include "ops/cpu/kernels/row_kernels.h"

namespace tandem {
namespace {

struct SinCos {
  double sine;
  double cosine;
};

/// Series up to r^15 and r^16: below 1e-16 for |r| <= pi/4.
SinCos series(double r) {
  const double z = r * r;
  double sine = 0.0;
  double cosine = 0.0;
  for (int k = 15; k >= 3; k -= 2) sine = (1.0 + sine) * -z / (k * (k - 1));
  for (int k = 16; k >= 2; k -= 2) cosine = (1.0 + cosine) * -z / (k * (k - 1));
  return {r + r * sine, 1.0 + cosine};
}

/// Only additions, multiplications and divisions of doubles, so the same bits everywhere; |x| < 2^29.
SinCos sin_cos(double x) {
  // pi/2 in three parts, the first two of 24 bits: their products with a quarter count below 2^29 are exact.
  constexpr double kHigh = 0x1.921fb4p+0;
  constexpr double kMiddle = 0x1.4442dp-24;
  constexpr double kLow = 0x1.8469898cc5170p-48;
  constexpr double kRound = 0x1.8p52;  // adding it rounds to an integer
  const double quarters = (x * 0.63661977236758134308 + kRound) - kRound;
  const double r = ((x - quarters * kHigh) - quarters * kMiddle) - quarters * kLow;
  const SinCos a = series(r);
  switch (static_cast<int64_t>(quarters) & 3) {
    case 0:
      return {a.sine, a.cosine};
    case 1:
      return {a.cosine, -a.sine};
    case 2:
      return {-a.sine, -a.cosine};
    default:
      return {-a.cosine, a.sine};
  }
}

}  // namespace

void RopeTable::fill(std::span<const int32_t> positions, std::span<const double> inverse_frequency,
                     double magnitude) {
  n_tokens_ = static_cast<int64_t>(positions.size());
  n_pairs_ = static_cast<int64_t>(inverse_frequency.size());
  values_.resize(positions.size() * inverse_frequency.size() * 2);
  float* out = values_.data();
  for (const int32_t position : positions) {
    for (size_t i = 0; i < inverse_frequency.size(); ++i) {
      const SinCos a = sin_cos(static_cast<double>(position) * inverse_frequency[i]);
      out[i] = static_cast<float>(a.cosine * magnitude);
      out[i + inverse_frequency.size()] = static_cast<float>(a.sine * magnitude);
    }
    out += 2 * n_pairs_;
  }
}

const float* RopeRows::row(int32_t position) {
  constexpr int32_t kRun = 64;  // positions computed together
  require(position >= 0 && n_pairs() > 0, "rope: a row", position, n_pairs());
  const auto run = static_cast<size_t>(position / kRun);
  if (run >= runs_.size()) runs_.resize(run + 1);
  std::vector<float>& rows = runs_[run];
  if (rows.empty()) {
    std::vector<int32_t> positions(kRun);
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(run) * kRun);
    table_.fill(positions, inverse_frequency_, magnitude_);
    rows.reserve(static_cast<size_t>(kRun * n_pairs() * 2));
    for (int64_t t = 0; t < kRun; ++t) {
      for (int64_t p = 0; p < n_pairs(); ++p) {
        rows.push_back(table_.cosines(t)[p]);
        rows.push_back(table_.sines(t)[p]);
      }
    }
  }
  return rows.data() + (position % kRun) * n_pairs() * 2;
}

void rope(const RopeHeads& heads, Isa isa) {
  require(2 * heads.n_pairs <= heads.head_dim, "more rotated elements than a head has", heads.n_pairs,
          heads.head_dim);
  row_kernels(isa).rope(heads);
}

}  // namespace tandem
