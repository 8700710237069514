// The way from the public products to the kernels: lays a few tokens' activations out as tiles, and calls the
// kernel of the format and instruction set for them.
#include "ops/cpu/matmul.h"

#include <algorithm>
#include <cstring>

#include "ops/core/check.h"
#include "ops/core/fixed_point.h"
#include "ops/cpu/kernels/matmul.h"
#include "ops/cpu/packed_layout.h"
#include "ops/quant/formats.h"

namespace tandem {
namespace {

/// A buffer that grows; one a thread, kept for the next product.
class Scratch {
 public:
  std::byte* get(size_t bytes) {
    if (bytes > capacity_) {
      memory_.reset();
      memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kLineBytes, bytes)));
      if (memory_ == nullptr) throw std::bad_alloc();
      capacity_ = bytes;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  size_t capacity_ = 0;
};

thread_local Scratch scratch;

size_t aligned(size_t bytes) {
  return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
}

/// What a format wants in its tiles.
struct TileNeeds {
  bool floats = false;
  bool wide = false;
  bool sum = false;  ///< sums of halves or groups as floats
  int zero = 0;      ///< the zero point, 0 where none
  bool zero_pairs = false;
  int halves = 1;
};

template <class F>
TileNeeds needs_of(ActForm form, const MatmulKernels& kernels) {
  if constexpr (FloatFormat<F>) {
    return {.floats = true};
  } else {
    return {.wide = form == ActForm::q15,
            .sum = F::kHasMin,
            .zero = F::kTable ? 128 : F::kZero,
            .zero_pairs = kernels.zero_pairs && F::kZero != 0,
            .halves = F::kHalves ? 2 : 1};
  }
}

/// Bytes of scratch for one token of a tile.
size_t tile_bytes(const Activations& x, const TileNeeds& needs) {
  const auto groups = static_cast<size_t>(x.n_groups());
  if (needs.floats) return aligned(static_cast<size_t>(x.n_cols()) * sizeof(float));
  const size_t planes = groups * kGroup * (needs.wide ? 2 : 1);
  const size_t corrections = groups * static_cast<size_t>(needs.halves) * sizeof(float);
  return aligned(planes + groups * sizeof(float) + corrections * (needs.zero_pairs ? 3 : 2));
}

/// The corrections of token t of n, from its row of sums.
void fill_sums(const Activations& x, ActForm form, const TileNeeds& needs, int64_t token, int64_t n,
               int64_t t, int32_t* zero, float* sum) {
  const int32_t* sums = x.sums(form, token);
  const int32_t* first_sums = x.first_sums(form, token);
  const float* scales = x.scales(form, token);
  for (int64_t g = 0; g < x.n_groups(); ++g) {
    const int32_t parts[2] = {needs.halves == 1 ? sums[g] : first_sums[g], sums[g] - first_sums[g]};
    for (int half = 0; half < needs.halves; ++half) {
      const int64_t at = (g * n + t) * needs.halves + half;
      if (zero != nullptr) zero[at] = -needs.zero * parts[half];
      if (sum != nullptr) sum[at] = scales[g] * static_cast<float>(parts[half]);
    }
  }
}

/// -zero point · sum of n activations, as two 16-bit numbers: the first and the last two of every four.
int32_t zero_pair(int zero, const int8_t* acts, int64_t n) {
  int32_t first = 0;
  int32_t last = 0;
  for (int64_t i = 0; i < n; i += 4) {
    first += acts[i] + acts[i + 1];
    last += acts[i + 2] + acts[i + 3];
  }
  return static_cast<int32_t>((static_cast<uint32_t>(-zero * first) & 0xffffU) |
                              static_cast<uint32_t>(-zero * last) << 16);
}

/// ActTile::zero_pairs of token t of n.
void fill_zero_pairs(const Activations& x, ActForm form, const TileNeeds& needs, int64_t token, int64_t n,
                     int64_t t, int32_t* pairs) {
  const int planes = needs.wide ? 2 : 1;
  const int64_t part = kGroup / needs.halves;
  for (int plane = 0; plane < planes; ++plane) {
    const int8_t* row = plane == 0 ? x.high_row(form, token) : x.low_row(token);
    for (int64_t g = 0; g < x.n_groups(); ++g) {
      int32_t* out = pairs + ((g * n + t) * planes + plane) * needs.halves;
      for (int half = 0; half < needs.halves; ++half) {
        out[half] = zero_pair(needs.zero, row + g * kGroup + half * part, part);
      }
    }
  }
}

/// Cuts pieces of the scratch memory.
struct Cutter {
  std::byte* at;

  template <class T>
  T* take(int64_t count) {
    auto* p = reinterpret_cast<T*>(at);
    at += aligned(static_cast<size_t>(count) * sizeof(T));
    return p;
  }
};

ActTile fill_float_tile(const Activations& x, int64_t first, int n, Cutter& cutter) {
  ActTile tile{.n = n, .first_token = first, .x = x.f32_row(first)};
  if (n == 1) return tile;
  auto* floats = cutter.take<float>(x.n_cols() * n);
  for (int t = 0; t < n; ++t) {
    const float* row = x.f32_row(first + t);
    for (int64_t col = 0; col < x.n_cols(); ++col) floats[col * n + t] = row[col];
  }
  tile.x = floats;
  return tile;
}

/// Fills a tile for tokens [first, first + n). A single token's rows are used where they lie.
ActTile fill_tile(const Activations& x, ActForm form, const TileNeeds& needs, int64_t first, int n,
                  Cutter& cutter) {
  if (needs.floats) return fill_float_tile(x, first, n, cutter);
  const int64_t n_groups = x.n_groups();
  const int64_t corrections = n_groups * n * needs.halves;
  auto* zero = needs.zero != 0 && !needs.zero_pairs ? cutter.take<int32_t>(corrections) : nullptr;
  auto* pairs = needs.zero_pairs ? cutter.take<int32_t>(corrections * (needs.wide ? 2 : 1)) : nullptr;
  auto* sum = needs.sum ? cutter.take<float>(corrections) : nullptr;
  for (int t = 0; t < n; ++t) {
    if (zero != nullptr || sum != nullptr) fill_sums(x, form, needs, first + t, n, t, zero, sum);
    if (pairs != nullptr) fill_zero_pairs(x, form, needs, first + t, n, t, pairs);
  }
  ActTile tile{.n = n,
               .first_token = first,
               .high = x.high_row(form, first),
               .low = needs.wide ? x.low_row(first) : nullptr,
               .scale = x.scales(form, first),
               .zero = zero,
               .zero_pairs = pairs,
               .sum = sum};
  if (n == 1) return tile;
  auto* high = cutter.take<int8_t>(n_groups * n * kGroup);
  auto* low = needs.wide ? cutter.take<int8_t>(n_groups * n * kGroup) : nullptr;
  auto* scale = cutter.take<float>(n_groups * n);
  for (int t = 0; t < n; ++t) {
    const int8_t* high_row = x.high_row(form, first + t);
    const int8_t* low_row = needs.wide ? x.low_row(first + t) : nullptr;
    const float* scales = x.scales(form, first + t);
    for (int64_t g = 0; g < n_groups; ++g) {
      std::memcpy(high + (g * n + t) * kGroup, high_row + g * kGroup, kGroup);
      if (needs.wide) std::memcpy(low + (g * n + t) * kGroup, low_row + g * kGroup, kGroup);
      scale[g * n + t] = scales[g];
    }
  }
  tile.high = high;
  tile.low = low;
  tile.scale = scale;
  return tile;
}

/// Runs the kernels over all tokens, at most kMaxTokens at a time, in tiles of powers of two.
template <class F>
bool run_format(const PackedMatrix& weight, const Activations& x, ActForm form, Range tokens, Isa isa,
                MatmulArgs args) {
  const MatmulKernels kernels = with_isa(isa, [](auto tag) { return matmul_kernels<F, decltype(tag)>(); });
  const TileNeeds needs = needs_of<F>(form, kernels);
  args.panels = weight.data();
  args.panel_bytes = static_cast<int64_t>(weight.bytes()) / weight.n_panels();
  args.n_rows = weight.n_rows();
  args.n_units = FloatFormat<F> ? weight.n_cols() : weight.n_cols() / kGroup;
  if constexpr (QuantFormat<F>) args.phase = PackedLayout<F>::phase(weight.cols().begin);
  args.wide = form == ActForm::q15;
  ActTile tiles[kMaxTokens];
  args.tiles = tiles;
  bool in_range = true;
  for (int64_t token = tokens.begin; token < tokens.end;) {
    const int n = static_cast<int>(std::min<int64_t>(kMaxTokens, tokens.end - token));
    constexpr size_t kPieces = 6;
    Cutter cutter{scratch.get(static_cast<size_t>(n) * (tile_bytes(x, needs) + kPieces * kLineBytes))};
    args.n_tiles = 0;
    for (int done = 0, size = kernels.tile_tokens; done < n;) {
      if (size > n - done) {
        size /= 2;
        continue;
      }
      tiles[args.n_tiles++] = fill_tile(x, form, needs, token + done, size, cutter);
      done += size;
    }
    in_range &= kernels.run(args);
    token += n;
  }
  return in_range;
}

bool run(const PackedMatrix& weight, const Activations& x, ActForm form, Range panels, Range tokens, Isa isa,
         MatmulArgs args) {
  require(weight.n_cols() == x.n_cols(), "matmul: columns of weight and activations", weight.n_cols(),
          x.n_cols());
  require(panels.begin >= 0 && panels.end <= weight.n_panels(), "matmul: panels", panels.begin, panels.end);
  require(tokens.begin >= 0 && tokens.end <= x.n_tokens(), "matmul: tokens", tokens.begin, tokens.end);
  if (panels.empty() || tokens.empty()) return true;
  args.panel_begin = panels.begin;
  args.panel_end = panels.end;
  bool in_range = true;
  with_format(weight.type(), [&]<class F>(F) {
    const bool wanted = FloatFormat<F> ? form == ActForm::f32 : form != ActForm::f32 && x.forms().has(form);
    require(wanted, "matmul: form of the activations", type_info(F::kType).name, static_cast<int>(form));
    in_range = run_format<F>(weight, x, form, tokens, isa, args);
  });
  return in_range;
}

}  // namespace

ActForm activation_form(TensorType type, bool wide) {
  ActForm form = wide ? ActForm::q15 : ActForm::q8;
  with_format(type, [&]<class F>(F) {
    if constexpr (FloatFormat<F>) form = ActForm::f32;
  });
  return form;
}

void matmul(const PackedMatrix& weight, const Activations& x, ActForm form, Range panels, Range tokens,
            float* out, int64_t out_stride, Isa isa) {
  if (weight.n_rows() == 0) return;
  if (weight.cols().empty()) {  // an empty sum
    const int64_t begin = panels.begin * kPanelRows;
    const int64_t end = std::min(panels.end * kPanelRows, weight.n_rows());
    for (int64_t token = tokens.begin; token < tokens.end; ++token) {
      std::fill(out + token * out_stride + begin, out + token * out_stride + end, 0.0F);
    }
    return;
  }
  run(weight, x, form, panels, tokens, isa, {.out_stride = out_stride, .out = out});
}

bool matmul_partial(const PackedMatrix& weight, const Activations& x, ActForm form, int64_t chunk_cols,
                    Range panels, Range tokens, int64_t* out, int64_t out_stride, Isa isa) {
  if (weight.empty()) return true;
  const bool floats = activation_form(weight.type(), false) == ActForm::f32;
  require(chunk_cols > 0 && (floats || chunk_cols % kGroup == 0), "matmul_partial: chunk", chunk_cols);
  require(weight.cols().begin % chunk_cols == 0, "matmul_partial: shard begins inside a chunk",
          weight.cols().begin, chunk_cols);
  return run(
      weight, x, form, panels, tokens, isa,
      {.out_stride = out_stride, .fixed = out, .chunk_units = floats ? chunk_cols : chunk_cols / kGroup});
}

}  // namespace tandem
