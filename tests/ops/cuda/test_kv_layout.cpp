// The layout of the CUDA backend's cache (ops/cuda/kv_layout.h), without a device: bytes of rows and planes,
// and how four bytes of q4_0 become int8 codes.
#include "ops/cuda/kv_layout.h"

#include <gtest/gtest.h>

namespace tandem::cuda {
namespace {

int8_t byte_of(uint32_t word, int i) {
  return static_cast<int8_t>(word >> (8 * i) & 0xffU);
}

TEST(KvLayout, EveryPairOfNibblesBecomesItsCodes) {
  for (int low = 0; low < 16; ++low) {
    for (int high = 0; high < 16; ++high) {
      for (int i = 0; i < 4; ++i) {  // the other bytes: the largest and the smallest codes
        for (const uint32_t around : {0x00000000U, 0xffffffffU}) {
          const uint32_t pair = static_cast<uint32_t>(high << 4 | low) << (8 * i);
          const uint32_t word = (around & ~(0xffU << (8 * i))) | pair;
          for (int j = 0; j < 4; ++j) {
            const int other = around == 0 ? -8 : 7;
            EXPECT_EQ(byte_of(codes_of_nibbles(word, false), j), j == i ? low - 8 : other);
            EXPECT_EQ(byte_of(codes_of_nibbles(word, true), j), j == i ? high - 8 : other);
          }
        }
      }
    }
  }
}

TEST(KvLayout, BytesOfRowsAndPlanes) {
  for (const int dim : {4, 20, 64, 80, 128, 256}) {
    EXPECT_EQ(kv_row_bytes(CudaKvType::f32, dim), 4 * dim);
    EXPECT_EQ(kv_row_bytes(CudaKvType::f16, dim), 2 * dim);
    EXPECT_EQ(kv_row_bytes(CudaKvType::q8_0, dim), dim);
  }
  EXPECT_EQ(kv_row_bytes(CudaKvType::q4_0, 128), 64);
  EXPECT_EQ(kv_row_bytes(CudaKvType::q4_0, 80), 40);
  EXPECT_EQ(kv_row_bytes(CudaKvType::q4_0, 20), 12);  // words: the last one is half used
  EXPECT_EQ(kv_plane_bytes(CudaKvType::q8_0, 128), 64 * 4 * 34);
  EXPECT_EQ(kv_plane_bytes(CudaKvType::q4_0, 128), 64 * 4 * 18);
  EXPECT_EQ(kv_plane_bytes(CudaKvType::q4_0, 80), 64 * (40 + 6));
  EXPECT_EQ(kv_plane_bytes(CudaKvType::f16, 80), 64 * 160);
}

}  // namespace
}  // namespace tandem::cuda
