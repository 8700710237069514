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

constexpr uint32_t kLow1 = 0x01010101U;
constexpr uint32_t kLow2 = 0x03030303U;
constexpr uint32_t kLow4 = 0x0f0f0f0fU;

/// The words of one row's group, as packed_layout.h describes them.
template <QuantFormat F>
void pack_words(const uint32_t* codes, uint32_t* words) {
  if constexpr (F::kBits == 8) {
    std::copy_n(codes, 8, words);
  } else if constexpr (F::kBits >= 4) {
    for (int v = 0; v < 4; ++v) words[v] = (codes[v] & kLow4) | (codes[v + 4] & kLow4) << 4;
  } else {
    for (int k = 0; k < 2; ++k) {
      words[k] = 0;
      for (int i = 0; i < 4; ++i) words[k] |= (codes[4 * k + i] & kLow2) << 2 * i;
    }
  }
  if constexpr (F::kBits == 5 || F::kBits == 3) {
    uint32_t& last = words[F::kBits - 1];
    last = 0;
    for (int v = 0; v < 8; ++v) last |= (codes[v] >> (F::kBits - 1) & kLow1) << v;
  } else if constexpr (F::kBits == 6) {
    for (int k = 0; k < 2; ++k) {
      words[4 + k] = 0;
      for (int i = 0; i < 4; ++i) words[4 + k] |= (codes[4 * k + i] >> 4 & kLow2) << 2 * i;
    }
  }
}

/// The inverse of pack_words.
template <QuantFormat F>
void unpack_words(const uint32_t* words, uint32_t* codes) {
  for (int v = 0; v < 8; ++v) {
    if constexpr (F::kBits == 8) {
      codes[v] = words[v];
    } else if constexpr (F::kBits >= 4) {
      codes[v] = words[v % 4] >> 4 * (v / 4) & kLow4;
    } else {
      codes[v] = words[v / 4] >> 2 * (v % 4) & kLow2;
    }
    if constexpr (F::kBits == 5 || F::kBits == 3) {
      codes[v] |= (words[F::kBits - 1] >> v & kLow1) << (F::kBits - 1);
    } else if constexpr (F::kBits == 6) {
      codes[v] |= (words[4 + v / 4] >> 2 * (v % 4) & kLow2) << 4;
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

PackedMatrix::PackedMatrix(TensorType type, int64_t n_rows, Range cols)
    : type_(type), n_rows_(n_rows), cols_(cols) {
  require(n_rows >= 0 && cols.begin >= 0 && cols.end >= cols.begin, "packed matrix: shape", n_rows,
          cols.begin, cols.end);
  with_format(type, [&]<class F>(F) {
    if constexpr (QuantFormat<F>) {
      require(cols.begin % kGroup == 0 && cols.end % kGroup == 0,
              "packed matrix: columns not in groups of 32", cols.begin, cols.end);
    }
    if (!empty())
      bytes_ = static_cast<size_t>(n_panels() * PackedLayout<F>::panel_bytes(n_cols(), cols.begin));
  });
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
