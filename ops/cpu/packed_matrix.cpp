// Packing rows of the file into panels, and reading single rows back. See ops/cpu/packed_layout.h.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "ops/core/check.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/packed_layout.h"
#include "ops/quant/formats.h"

namespace tandem {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

/// Zeroed pages; large pieces begin at a huge page's boundary and ask for huge pages.
std::byte* map_zeroed(size_t bytes) {
  const size_t slack = bytes >= kHugePage ? kHugePage : 0;
  void* mapped = mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* base = static_cast<std::byte*>(mapped);
  if (slack == 0) return base;
  const size_t skip = (kHugePage - reinterpret_cast<uintptr_t>(base) % kHugePage) % kHugePage;
  if (skip != 0) munmap(base, skip);
  const size_t page = 4096;
  const size_t used = (bytes + page - 1) / page * page;
  if (slack > skip) munmap(base + skip + used, slack - skip);
  madvise(base + skip, bytes, MADV_HUGEPAGE);  // advice: a refusal costs speed only
  return base + skip;
}

/// Bits [from, from + n) of each byte of x.
constexpr uint32_t bits(uint32_t x, int from, int n) {
  return x >> from & ((1U << n) - 1) * 0x01010101U;
}

/// The words of one row's group, as packed_layout.h describes them.
template <QuantFormat F>
void pack_words(const uint32_t* c, uint32_t* w) {
  for (int v = 0; v < F::kBits; ++v) w[v] = c[v];
  if constexpr (F::kBits == 2) {
    for (int v = 0; v < 2; ++v) w[v] = c[4 * v] | c[4 * v + 1] << 2 | c[4 * v + 2] << 4 | c[4 * v + 3] << 6;
  } else if constexpr (F::kBits == 3) {
    w[0] |= c[3] << 3 | bits(c[6], 0, 2) << 6;
    w[1] |= c[4] << 3 | bits(c[7], 0, 2) << 6;
    w[2] |= c[5] << 3 | bits(c[6], 2, 1) << 6 | bits(c[7], 2, 1) << 7;
  } else if constexpr (F::kBits == 4) {
    for (int v = 0; v < 4; ++v) w[v] |= c[v + 4] << 4;
  } else if constexpr (F::kBits == 5) {
    w[0] |= bits(c[5], 0, 3) << 5;
    w[1] |= bits(c[5], 3, 2) << 5 | bits(c[6], 0, 1) << 7;
    w[2] |= bits(c[6], 1, 3) << 5;
    w[3] |= bits(c[6], 4, 1) << 5 | bits(c[7], 0, 2) << 6;
    w[4] |= bits(c[7], 2, 3) << 5;
  } else if constexpr (F::kBits == 6) {
    for (int v = 0; v < 6; ++v) w[v] |= bits(c[6 + v / 3], v % 3 * 2, 2) << 6;
  }
}

/// The inverse of pack_words.
template <QuantFormat F>
void unpack_words(const uint32_t* w, uint32_t* c) {
  for (int v = 0; v < F::kBits; ++v) c[v] = bits(w[v], 0, F::kBits);
  if constexpr (F::kBits == 2) {
    for (int v = 0; v < 8; ++v) c[v] = bits(w[v / 4], v % 4 * 2, 2);
  } else if constexpr (F::kBits == 3) {
    for (int v = 0; v < 3; ++v) c[v + 3] = bits(w[v], 3, 3);
    c[6] = bits(w[0], 6, 2) | bits(w[2], 6, 1) << 2;
    c[7] = bits(w[1], 6, 2) | bits(w[2], 7, 1) << 2;
  } else if constexpr (F::kBits == 4) {
    for (int v = 0; v < 4; ++v) c[v + 4] = bits(w[v], 4, 4);
  } else if constexpr (F::kBits == 5) {
    c[5] = bits(w[0], 5, 3) | bits(w[1], 5, 2) << 3;
    c[6] = bits(w[1], 7, 1) | bits(w[2], 5, 3) << 1 | bits(w[3], 5, 1) << 4;
    c[7] = bits(w[3], 6, 2) | bits(w[4], 5, 3) << 2;
  } else if constexpr (F::kBits == 6) {
    for (int k = 0; k < 2; ++k) {
      c[6 + k] = bits(w[3 * k], 6, 2) | bits(w[3 * k + 1], 6, 2) << 2 | bits(w[3 * k + 2], 6, 2) << 4;
    }
  }
}

/// Where the parts of a group lie in a segment. Also used with const bytes.
template <QuantFormat F, class Byte>
struct GroupPlace {
  using Layout = PackedLayout<F>;
  Byte* d;       ///< 16 halves
  Byte* dmin;    ///< 16 halves
  Byte* scales;  ///< 16 bytes a vector
  Byte* lines;

  GroupPlace(Byte* segment, int g)
      : d(F::kSubScales ? segment : segment + Layout::scales_offset(g)),
        dmin(d + 32),
        scales(segment + Layout::scales_offset(g)),
        lines(segment + Layout::lines_offset(g)) {}
};

template <QuantFormat F>
void put_group(const QuantGroup& group, GroupPlace<F, std::byte> place, int64_t lane) {
  using Layout = PackedLayout<F>;
  uint32_t words[F::kBits];
  pack_words<F>(group.codes, words);
  for (int line = 0; line < F::kBits; ++line) {
    std::memcpy(place.lines + line * kLineBytes + lane * 4, &words[line], sizeof(uint32_t));
  }
  std::memcpy(place.d + lane * 2, &group.d, sizeof(uint16_t));
  if constexpr (F::kHasMin) std::memcpy(place.dmin + lane * 2, &group.dmin, sizeof(uint16_t));
  if constexpr (Layout::kMinInScaleByte) {
    for (int half = 0; half < 2; ++half) {
      place.scales[16 * half + lane] = static_cast<std::byte>(group.scale[half] | group.min[half] << 4);
    }
  } else if constexpr (F::kSubScales) {
    place.scales[lane] = static_cast<std::byte>(group.scale[0]);
    if constexpr (F::kHalves) place.scales[16 + lane] = static_cast<std::byte>(group.scale[1]);
    if constexpr (F::kHasMin) place.scales[16 + lane] = static_cast<std::byte>(group.min[0]);
  }
}

template <QuantFormat F>
QuantGroup get_group(GroupPlace<F, const std::byte> place, int64_t lane) {
  using Layout = PackedLayout<F>;
  QuantGroup group{};
  uint32_t words[F::kBits];
  for (int line = 0; line < F::kBits; ++line) {
    std::memcpy(&words[line], place.lines + line * kLineBytes + lane * 4, sizeof(uint32_t));
  }
  unpack_words<F>(words, group.codes);
  std::memcpy(&group.d, place.d + lane * 2, sizeof(uint16_t));
  if constexpr (F::kHasMin) std::memcpy(&group.dmin, place.dmin + lane * 2, sizeof(uint16_t));
  for (int half = 0; half < 2; ++half) {
    if constexpr (Layout::kMinInScaleByte) {
      const auto packed = static_cast<uint8_t>(place.scales[16 * half + lane]);
      group.scale[half] = packed & 15;
      group.min[half] = static_cast<int16_t>(packed >> 4);
    } else if constexpr (F::kSubScales) {
      group.scale[half] = static_cast<int8_t>(place.scales[(F::kHalves ? 16 * half : 0) + lane]);
      if constexpr (F::kHasMin) group.min[half] = static_cast<int8_t>(place.scales[16 + lane]);
    } else if constexpr (F::kHasMin) {
      group.min[half] = 1;
    }
  }
  return group;
}

/// Rows [0, n_rows) of `rows` to lanes [lane, lane + n_rows) of one panel. Groups outside, rows inside: the
/// panel is written once, in order.
template <QuantFormat F>
void put_panel_rows(Range cols, const std::byte* rows, size_t row_stride, int64_t lane, int64_t n_rows,
                    std::byte* panel) {
  using Layout = PackedLayout<F>;
  const int64_t n_groups = cols.size() / kGroup;
  const int64_t first_group = cols.begin / kGroup;
  constexpr int64_t kBlockGroups = F::kElements / kGroup;
  typename F::Block block;
  for (int64_t begin = 0; begin < n_groups;) {
    const auto segment = Layout::segment_of(begin, n_groups, Layout::phase(cols.begin));
    for (int64_t row = 0; row < n_rows; ++row) {
      const std::byte* source = rows + static_cast<size_t>(row) * row_stride;
      for (int g = 0; g < segment.n_groups; ++g) {
        const int64_t stored = first_group + begin + g;
        if (g == 0 || stored % kBlockGroups == 0) {
          std::memcpy(&block, source + stored / kBlockGroups * static_cast<int64_t>(sizeof(block)),
                      sizeof(block));
        }
        const QuantGroup group = F::group(block, static_cast<int>(stored % kBlockGroups));
        put_group<F>(group, {panel + segment.offset, g}, lane + row);
      }
    }
    begin += segment.n_groups;
  }
}

template <FloatFormat F>
void put_panel_rows(Range cols, const std::byte* rows, size_t row_stride, int64_t lane, int64_t n_rows,
                    std::byte* panel) {
  using Element = typename F::Element;
  constexpr int64_t kColumns = 16;  // a square of 16 x 16 at a time stays in the nearest cache
  for (int64_t begin = 0; begin < cols.size(); begin += kColumns) {
    const int64_t end = std::min(cols.size(), begin + kColumns);
    for (int64_t row = 0; row < n_rows; ++row) {
      const std::byte* source =
          rows + static_cast<size_t>(row) * row_stride + (cols.begin + begin) * sizeof(Element);
      std::byte* target = panel + (begin * 16 + lane + row) * static_cast<int64_t>(sizeof(Element));
      for (int64_t col = begin; col < end; ++col) {
        std::memcpy(target, source, sizeof(Element));
        source += sizeof(Element);
        target += 16 * sizeof(Element);
      }
    }
  }
}

}  // namespace

void UnmapPages::operator()(std::byte* p) const {
  munmap(p, bytes);
}

size_t PackedMatrix::bytes_of(TensorType type, int64_t n_rows, Range cols) {
  if (n_rows == 0 || cols.empty()) return 0;
  int64_t panel_bytes = 0;
  with_format(type, [&]<class F>(F) { panel_bytes = PackedLayout<F>::panel_bytes(cols.size(), cols.begin); });
  return static_cast<size_t>(ceil_div(n_rows, kPanelRows) * panel_bytes);
}

PackedMatrix::PackedMatrix(TensorType type, int64_t n_rows, Range cols)
    : type_(type), n_rows_(n_rows), cols_(cols) {
  require(n_rows >= 0 && cols.begin >= 0 && cols.end >= cols.begin, "packed matrix: shape", n_rows,
          cols.begin, cols.end);
  with_format(type, [&]<class F>(F) {
    if constexpr (QuantFormat<F>) {
      require(cols.begin % kGroup == 0 && cols.end % kGroup == 0,
              "packed matrix: columns not in groups of 32", cols.begin, cols.end);
    }
  });
  bytes_ = bytes_of(type, n_rows, cols);
  if (bytes_ == 0) return;
  memory_ = std::unique_ptr<std::byte, UnmapPages>(map_zeroed(bytes_), UnmapPages{bytes_});
}

void PackedMatrix::put_rows(int64_t row_begin, int64_t n_rows, const std::byte* rows, size_t row_stride) {
  require(row_begin >= 0 && n_rows >= 0 && row_begin + n_rows <= n_rows_, "put_rows: range", row_begin,
          n_rows);
  if (empty()) return;
  const int64_t panel_bytes = static_cast<int64_t>(bytes_) / n_panels();
  with_format(type_, [&]<class F>(F) {
    for (int64_t done = 0; done < n_rows;) {
      const int64_t row = row_begin + done;
      const int64_t lane = row % kPanelRows;
      const int64_t n = std::min(n_rows - done, kPanelRows - lane);
      put_panel_rows<F>(cols_, rows + static_cast<size_t>(done) * row_stride, row_stride, lane, n,
                        memory_.get() + row / kPanelRows * panel_bytes);
      done += n;
    }
  });
}

void PackedMatrix::dequantize_row(int64_t row, float* out) const {
  require(row >= 0 && row < n_rows_, "dequantize_row: row", row, n_rows_);
  if (empty()) return;
  const std::byte* panel = memory_.get() + row / kPanelRows * (static_cast<int64_t>(bytes_) / n_panels());
  const int64_t lane = row % kPanelRows;
  with_format(type_, [&]<class F>(F) {
    using Layout = PackedLayout<F>;
    if constexpr (FloatFormat<F>) {
      for (int64_t col = 0; col < n_cols(); ++col) {
        typename F::Element element;
        std::memcpy(&element, panel + col * Layout::kColumnBytes + lane * sizeof(element), sizeof(element));
        out[col] = F::to_float(element);
      }
    } else {
      const int64_t n_groups = n_cols() / kGroup;
      for (int64_t g = 0; g < n_groups; ++g) {
        const auto segment = Layout::segment_of(g, n_groups, Layout::phase(cols_.begin));
        const QuantGroup group = get_group<F>({panel + segment.offset, segment.first}, lane);
        for (int i = 0; i < kGroup; ++i) out[g * kGroup + i] = element<F>(group, i);
      }
    }
  });
}

}  // namespace tandem
