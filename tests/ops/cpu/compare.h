// What the CPU kernels' tests compare and feed with: normalised mean squared error against a double-precision
// truth, equality of bits, and inputs that are random, reproducible and not constant. Its own test:
// test_compare.cpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

namespace tandem::test {

/// Σ (a - truth)² / Σ truth²; infinite where the sizes differ, a value isn't finite or the truth is all
/// zeros.
template <class T>
double nmse(std::span<const T> a, std::span<const double> truth) {
  constexpr double kBad = std::numeric_limits<double>::infinity();
  if (a.size() != truth.size() || a.empty()) return kBad;
  double error = 0.0;
  double power = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - truth[i];
    error += difference * difference;
    power += truth[i] * truth[i];
  }
  return power > 0.0 && std::isfinite(error) ? error / power : kBad;
}
inline double nmse(const std::vector<float>& a, const std::vector<double>& truth) {
  return nmse(std::span<const float>(a), std::span<const double>(truth));
}

/// The same bytes: -0 differs from 0, a NaN equals itself.
inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  float normal(float deviation = 1.0F) { return std::normal_distribution<float>(0.0F, deviation)(engine_); }
  std::vector<float> normals(size_t n, float deviation = 1.0F) {
    std::vector<float> out(n);
    for (float& x : out) x = normal(deviation);
    return out;
  }
  /// Of [begin, end).
  int64_t integer(int64_t begin, int64_t end) {
    return std::uniform_int_distribution<int64_t>(begin, end - 1)(engine_);
  }
  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
};

inline std::vector<double> as_doubles(std::span<const float> x) {
  return {x.begin(), x.end()};
}

}  // namespace tandem::test
