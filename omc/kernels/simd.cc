// Chooses the sweeps for this processor, once.
#include <cstdlib>
#include <string>

#include "sweep.h"

namespace omc {
namespace {

enum Simd { kPortable, kAvx2, kAvx512 };

Simd Choose() {
#ifdef OMC_X86
  const char* asked = std::getenv("OMC_SIMD");
  const std::string most = asked ? asked : "avx512";
  if (most != "portable" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) {
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return wide && most != "avx2" ? kAvx512 : kAvx2;
  }
#endif
  return kPortable;
}

Simd Best() {
  static const Simd best = Choose();
  return best;
}

}  // namespace

const Sweeps& BestSweeps() {
#ifdef OMC_X86
  if (Best() == kAvx512) return avx512::sweeps;
  if (Best() == kAvx2) return avx2::sweeps;
#endif
  return portable::sweeps;
}

const QuantizerSweeps& BestQuantizerSweeps() {
#ifdef OMC_X86
  if (Best() == kAvx512) return avx512::quantizer_sweeps;
  if (Best() == kAvx2) return avx2::quantizer_sweeps;
#endif
  return portable::quantizer_sweeps;
}

const DitherSweeps& BestDitherSweeps() {
#ifdef OMC_X86
  if (Best() == kAvx512) return avx512::dither_sweeps;
  if (Best() == kAvx2) return avx2::dither_sweeps;
#endif
  return portable::dither_sweeps;
}

}  // namespace omc
