// Matrix speed in a build without cuBLASLt's header.
#include "launch/doctor/matrix_speed.h"

namespace tandem::cuda {

double measure_fp16_tflops(std::string& why_not) {
  why_not = "this build has no cuBLASLt";
  return 0;
}

}  // namespace tandem::cuda
