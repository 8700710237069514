// How fast a GPU multiplies matrices of 16-bit floats, by cuBLASLt, whose library is looked for when the
// program runs. matrix_speed_none.cpp stands in where its header was missing. Used by gpu_probe.cpp only.
#pragma once

#include <string>

namespace tandem::cuda {

/// TFLOP/s of a 4096 x 4096 x 4096 product (fp16, summed in fp32) on the current device; 0 with the reason in
/// `why_not` where cuBLASLt can't be had.
double measure_fp16_tflops(std::string& why_not);

}  // namespace tandem::cuda
