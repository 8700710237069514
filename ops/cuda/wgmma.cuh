// Hopper's own tensor core instructions (wgmma, code for sm_90a only): the four warps of a warpgroup multiply
// 64 rows in their registers with tokens in shared memory, which no register has to hold.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/cuda/async_copy.cuh"

namespace tandem::cuda::device {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// An instruction up to its sums' registers, the registers by 32, and the operands that they are.
#define TANDEM_PRODUCT(shape)                      \
  "{\n\t.reg .pred p;\n\tsetp.eq.b32 p, 0, 0;\n\t" \
  "wgmma.mma_async.sync.aligned." shape ".f32.f16.f16 {"
#define TANDEM_REGISTERS_0                                                 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TANDEM_REGISTERS_32                                                            \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TANDEM_REGISTERS_64                                                            \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define TANDEM_REGISTERS_96                                                                        \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define TANDEM_SUMS(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define TANDEM_EIGHT_SUMS(j)                                                                      \
  TANDEM_SUMS(j), TANDEM_SUMS(j + 1), TANDEM_SUMS(j + 2), TANDEM_SUMS(j + 3), TANDEM_SUMS(j + 4), \
      TANDEM_SUMS(j + 5), TANDEM_SUMS(j + 6), TANDEM_SUMS(j + 7)

/// c += a · b for a warpgroup. a: 64 rows × 16, each warp's 16 rows as mma()'s a; c: each warp's rows as
/// mma()'s c, of eight times 8 tokens; b: 64 tokens × 16, as swizzled_operand() says. Runs by itself: a's and
/// c's registers and b's memory are in use until await_products().
__device__ inline void multiply_group(float (&c)[8][4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                      uint64_t b) {
  asm volatile(TANDEM_PRODUCT("m64n64k16") TANDEM_REGISTERS_0 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n\t}"
               : TANDEM_EIGHT_SUMS(0)
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

/// c += a · b, both in shared memory as swizzled_operand() says: a: 64 rows × 16; b: 64, 128, 192 or 256
/// tokens × 16; c as multiply_group()'s, 8 tokens behind another. Runs by itself, as multiply_group().
__device__ inline void multiply_shared(float (&c)[8][4], uint64_t a, uint64_t b) {
  asm volatile(TANDEM_PRODUCT("m64n64k16") TANDEM_REGISTERS_0 "}, %32, %33, p, 1, 1, 0, 0;\n\t}"
               : TANDEM_EIGHT_SUMS(0)
               : "l"(a), "l"(b));
}
__device__ inline void multiply_shared(float (&c)[16][4], uint64_t a, uint64_t b) {
  asm volatile(TANDEM_PRODUCT("m64n128k16") TANDEM_REGISTERS_0 TANDEM_REGISTERS_32
               "}, %64, %65, p, 1, 1, 0, 0;\n\t}"
               : TANDEM_EIGHT_SUMS(0), TANDEM_EIGHT_SUMS(8)
               : "l"(a), "l"(b));
}
__device__ inline void multiply_shared(float (&c)[24][4], uint64_t a, uint64_t b) {
  asm volatile(TANDEM_PRODUCT("m64n192k16") TANDEM_REGISTERS_0 TANDEM_REGISTERS_32 TANDEM_REGISTERS_64
               "}, %96, %97, p, 1, 1, 0, 0;\n\t}"
               : TANDEM_EIGHT_SUMS(0), TANDEM_EIGHT_SUMS(8), TANDEM_EIGHT_SUMS(16)
               : "l"(a), "l"(b));
}
__device__ inline void multiply_shared(float (&c)[32][4], uint64_t a, uint64_t b) {
  asm volatile(TANDEM_PRODUCT("m64n256k16")
                   TANDEM_REGISTERS_0 TANDEM_REGISTERS_32 TANDEM_REGISTERS_64 TANDEM_REGISTERS_96
               "}, %128, %129, p, 1, 1, 0, 0;\n\t}"
               : TANDEM_EIGHT_SUMS(0), TANDEM_EIGHT_SUMS(8), TANDEM_EIGHT_SUMS(16), TANDEM_EIGHT_SUMS(24)
               : "l"(a), "l"(b));
}

#undef TANDEM_EIGHT_SUMS
#undef TANDEM_SUMS
#undef TANDEM_REGISTERS_96
#undef TANDEM_REGISTERS_64
#undef TANDEM_REGISTERS_32
#undef TANDEM_REGISTERS_0
#undef TANDEM_PRODUCT

/// Registers written before it may be given to multiply_group() behind it.
__device__ inline void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void end_of_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until all but the last kLeft groups of products (end_of_products()) are done.
template <int kLeft>
__device__ inline void await_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}
/// Keeps uses of c before and behind it apart, which the compiler doesn't know wgmma writes later.
template <int kEights>
__device__ inline void pin(float (&c)[kEights][4]) {
#pragma unroll
  for (int j = 0; j < kEights; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(c[j][e])::"memory");
  }
}
/// What this thread wrote into shared memory is seen by products that begin behind the next barrier.
__device__ inline void show_to_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// 16 columns of tokens (or rows) in a panel of 64: a token's 128 bytes one behind another, of which the
/// 16-byte piece j lies at place j ^ (token % 8). `shared`: address of the panel (a multiple of 1024) + 32 ×
/// number of the 16 columns.
__device__ inline uint64_t swizzled_operand(uint32_t shared) {
  constexpr uint64_t kEightTokens = 1024 >> 4;
  constexpr uint64_t kSwizzled = uint64_t{1} << 62;
  return kSwizzled | kEightTokens << 32 | uint64_t{1} << 16 | (shared & 0x3ffffU) >> 4;
}

// Barriers in shared memory (mbarrier): a phase ends when so many threads have arrived and all expected bytes
// have come.
__device__ inline void make_barrier(uint64_t* barrier, int n_arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(n_arrivals)
               : "memory");
}
/// Barriers made before are seen by copies.
__device__ inline void show_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
/// Arrives, and lets the phase wait for so many bytes of copies.
__device__ inline void expect_bytes(uint64_t* barrier, int n_bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(n_bytes)
               : "memory");
}
/// Until the phase of that parity (0 for the first) has ended.
__device__ inline void await_phase(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n\t.reg .pred done;\n"
      "again:\n\t"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
      "@!done bra again;\n\t}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
/// Brings n_bytes (a multiple of 16, as the addresses) to shared memory; the barrier counts them.
__device__ inline void copy_bulk(uint32_t to, const std::byte* from, int n_bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
      "l"(from), "r"(n_bytes), "r"(shared_address(barrier))
      : "memory");
}
/// Four matrices of eight rows of 16 bytes: lane 4 r + w has word w of row r of each; `to`: where lane 8 m +
/// r puts row r of matrix m.
__device__ inline void store_matrices(uint32_t to, const uint4& words) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(words.x),
               "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
}
/// All warps of a warpgroup: registers that a thread keeps, or may use from now on.
template <int kRegisters>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

#endif

}  // namespace tandem::cuda::device
