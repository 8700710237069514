// ops/cuda/tile_layout.h on the host: what a lane takes apart is what the format's group() says, for every
// format, and the activations' order is a permutation that gives a quad contiguous bytes.
#include "ops/cuda/tile_layout.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "ops/cuda/activation_layout.h"
#include "tests/support/random_matrix.h"

namespace tandem::cuda {
namespace {

template <QuantFormat F>
int byte_of(uint32_t word, int b) {
  const uint32_t byte = word >> 8 * b & 0xffU;
  return detail::kSigned<F> ? static_cast<int8_t>(byte) : static_cast<int>(byte);
}

/// Values of a lane's 64 columns, from its words.
template <QuantFormat F>
void unpack(const Lane<F>& lane, uint32_t row, float* out) {
  const LaneScales scales = lane_scales<F>(lane.scale, row);
  for (int i = 0; i < kLaneCols; ++i) {
    const int g = i / 32;
    const int h = i % 32 / 16;
    const auto word = static_cast<float>(byte_of<F>(weight_word<F>(lane.codes, g, i % 32 / 4), i % 4));
    if constexpr (F::kSubScales) {
      out[i] = scales.d * (static_cast<float>(scales.scale[g][h]) * word);
      if constexpr (F::kHasMin) out[i] -= scales.dmin * static_cast<float>(scales.min[g][h]);
    } else {
      out[i] = scales.group_d[g] * word;
      if constexpr (F::kHasMin) out[i] -= scales.group_min[g];
    }
  }
}

/// A row's 256 columns through the four lanes of its quad.
template <QuantFormat F>
std::vector<float> through_lanes(const typename F::Block* blocks) {
  constexpr int kBlockGroups = F::kElements / kGroup;
  Lane<F> lanes[kQuad]{};
  uint32_t row = 0;
  const QuantGroup first = F::group(blocks[0], 0);
  for (int quarter = 0; quarter < kQuad; ++quarter) {
    const int g = 2 * quarter;
    const QuantGroup a = F::group(blocks[g / kBlockGroups], g % kBlockGroups);
    const QuantGroup b = F::group(blocks[(g + 1) / kBlockGroups], (g + 1) % kBlockGroups);
    pack_codes<F>(a, b, lanes[quarter].codes);
    pack_scales<F>(a, b, first.d, first.dmin, quarter, lanes[quarter].scale, lanes[quarter].row);
    if constexpr (TileLayout<F>::kQuadBits != 0) {
      row |= quad_share<F>(lanes[quarter].scale, quarter);
    } else {
      row = lanes[quarter].row;
    }
  }
  std::vector<float> out(kSegmentCols);
  for (int quarter = 0; quarter < kQuad; ++quarter)
    unpack<F>(lanes[quarter], row, out.data() + kLaneCols * quarter);
  return out;
}

class TileLayoutFormats : public ::testing::TestWithParam<TensorType> {};

TEST_P(TileLayoutFormats, LanesGiveWhatTheFormatSays) {
  constexpr int64_t kRows = 50;
  for (const bool extreme : {false, true}) {
    const auto m = testing::random_matrix(GetParam(), kRows, kSegmentCols, 3, extreme);
    with_format(GetParam(), [&]<class F>(F) {
      if constexpr (QuantFormat<F>) {
        int n_different = 0;
        for (int64_t r = 0; r < kRows; ++r) {
          const auto* blocks = reinterpret_cast<const typename F::Block*>(
              m.bytes.data() + r * static_cast<int64_t>(m.row_stride));
          const std::vector<float> truth = ref::dequantize_row(m.stored, r);
          const std::vector<float> got = through_lanes<F>(blocks);
          for (size_t i = 0; i < truth.size(); ++i) {
            // the order of exact products differs, by roundings of a value's largest term
            ASSERT_NEAR(got[i], truth[i], 1e-6F * (std::fabs(truth[i]) + 1.0F))
                << "row " << r << " column " << i;
            n_different += truth[i] != truth[0] ? 1 : 0;
          }
        }
        EXPECT_GT(n_different, kRows * kSegmentCols / 4);
      }
    });
  }
}

TEST_P(TileLayoutFormats, TheComparisonSeesEveryCode) {
  auto m = testing::random_matrix(GetParam(), 1, kSegmentCols, 4);
  with_format(GetParam(), [&]<class F>(F) {
    if constexpr (QuantFormat<F>) {
      auto* blocks = reinterpret_cast<typename F::Block*>(m.bytes.data());
      const std::vector<float> before = through_lanes<F>(blocks);
      auto& bytes = [&]() -> auto& {
        if constexpr (requires { blocks->low; }) {
          return blocks->low;
        } else if constexpr (requires { blocks->weights; }) {
          return blocks->weights;
        } else {
          return blocks->codes;
        }
      }
      ();
      bytes[0] ^= 0x11;
      EXPECT_NE(through_lanes<F>(blocks), before);
    }
  });
}

TEST_P(TileLayoutFormats, TakesNoMoreThanTheFile) {
  with_format(GetParam(), [&]<class F>(F) {
    const auto stored = static_cast<double>(kTileRows * row_bytes(GetParam(), kSegmentCols));
    EXPECT_LE(static_cast<double>(TileLayout<F>::kUnitBytes),
              stored * (GetParam() == TensorType::q3_k ? 1.02 : 1.0));
  });
}

std::string type_name(const ::testing::TestParamInfo<TensorType>& info) {
  return std::string(type_info(info.param).name);
}

INSTANTIATE_TEST_SUITE_P(All, TileLayoutFormats, ::testing::ValuesIn(testing::computable_types()), type_name);

TEST(ActivationLayout, PositionsAreAPermutationOfLanesVectors) {
  std::set<int> seen;
  for (int col = 0; col < kSegmentCols; ++col) {
    const int position = ActLayout::position(col);
    EXPECT_EQ(position % 16, col % 16);
    EXPECT_EQ(position / 16 % kQuad, col / kLaneCols);
    seen.insert(position);
  }
  EXPECT_EQ(seen.size(), static_cast<size_t>(kSegmentCols));
  EXPECT_EQ(*seen.rbegin(), kSegmentCols - 1);
}

TEST(Gemv, SegmentsCoverTheColumns) {
  EXPECT_EQ(segments_of({0, 0}), (Range{0, 0}));
  EXPECT_EQ(segments_of({0, 1}), (Range{0, 1}));
  EXPECT_EQ(segments_of({224, 288}), (Range{0, 2}));
  EXPECT_EQ(segments_of({256, 512}), (Range{1, 2}));
}

}  // namespace
}  // namespace tandem::cuda
