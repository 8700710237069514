// A team of one thread for ops/core/sampling_chain.h: what a block of threads does on a GPU, on the host.
#pragma once

#include <cmath>
#include <utility>

#include "ops/core/sampling_chain.h"

namespace tandem::test {

struct SoloTeam {
  static int rank() { return 0; }
  static int size() { return 1; }
  static void sync() {}
  template <class T>
  static T add(T* p, T v) {
    return std::exchange(*p, *p + v);
  }
  static int32_t take(int32_t* p) { return std::exchange(*p, 0); }
  static sampling::Key best(sampling::Key key) { return key; }
  static int64_t sum(int64_t v) { return v; }
  static int64_t before(int64_t) { return 0; }
  static float fma(float a, float b, float c) { return std::fma(a, b, c); }
  static float mul(float a, float b) { return a * b; }
  static float add(float a, float b) { return a + b; }
  static float div(float a, float b) { return a / b; }
};

}  // namespace tandem::test
