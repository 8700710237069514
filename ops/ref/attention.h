// The slow truth of attention in double precision: one query over the rows that it sees, no blocks, no
// running maximum. Called by tests only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::ref {

struct AttentionRows {
  std::span<const double> q;       // (k_dim)
  std::span<const double> keys;    // (n_rows, k_dim): position i is row i
  std::span<const double> values;  // (n_rows, v_dim)
  int64_t k_dim = 0;
  int64_t v_dim = 0;
};

/// softmax over the visible positions max(0, position-window+1) … position (window 0: from 0) of
/// soft_cap(scale · q·k), times the values. Returns (v_dim).
std::vector<double> attend(const AttentionRows& rows, int64_t position, int64_t window, double scale,
                           double soft_cap);

}  // namespace tandem::ref
