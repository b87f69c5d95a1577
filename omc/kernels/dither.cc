// The sweeps of quantization under a dither, compiled as sweep.cc is; omc/coding/dither.py has the
// same in TensorFlow's ops, and the symbols agree to the bit.
#include <cmath>
#include <limits>

#include "random_bits.h"
#include "sweep.h"

namespace omc {
namespace OMC_SIMD {
namespace {

constexpr int kLanes = 16;
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds, ties to even,
constexpr float kMost = 4194303.0f;      // what is within this.

// Uniform in -1/2 .. 1/2, in steps of 2^-24.
inline float Drawn(const Dither& d, int64_t i) {
  const uint32_t bits = Random(static_cast<uint32_t>(i), d.key) >> 8;
  return static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-24f - 0.5f;
}

inline uint8_t Context(float t) {
  const int32_t distance = static_cast<int32_t>((t < 0.0f ? -t : t) * 16.0f);
  return static_cast<uint8_t>(distance < 7 ? distance : 7);
}

double Quantize(const Dither& d, const float* __restrict x, int64_t first, int64_t n,
                int32_t* __restrict symbols, uint8_t* __restrict contexts) {
  const float step = d.step, most = std::numeric_limits<float>::max();
  const bool some = step > 0.0f;
  double lanes[kLanes] = {};
  const auto one = [&](int64_t i, int k) {
    const float t = Drawn(d, first + i);
    const float magnitude = x[i] < 0.0f ? -x[i] : x[i];
    const float value = magnitude <= most ? x[i] : 0.0f;  // Neither NaN nor Inf.
    float u = some ? value / step : 0.0f;
    u = u < -kMost ? -kMost : u;
    u = u > kMost ? kMost : u;
    const float q = ((u + t) + kRounder) - kRounder;
    symbols[i] = static_cast<int32_t>(t < 0.0f ? -q : q);
    contexts[i] = Context(t);
    const float error = (q - t) * step - value;
    lanes[k] += static_cast<double>(error) * error;
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int k = 0; k < kLanes; ++k) one(i + k, k);
  for (int k = 0; i < n; ++i, ++k) one(i, k);
  double sum = 0.0;
  for (double lane : lanes) sum += lane;
  return sum;
}

void Contexts(const Dither& d, int64_t first, int64_t n, uint8_t* __restrict contexts) {
  for (int64_t i = 0; i < n; ++i) contexts[i] = Context(Drawn(d, first + i));
}

void Read(const Dither& d, const int32_t* __restrict symbols, int64_t first, int64_t n,
          float* __restrict values) {
  const float step = d.step;
  for (int64_t i = 0; i < n; ++i) {
    const float t = Drawn(d, first + i), symbol = static_cast<float>(symbols[i]);
    values[i] = ((t < 0.0f ? -symbol : symbol) - t) * step;
  }
}

}  // namespace

const DitherSweeps dither_sweeps = {Quantize, Contexts, Read};

}  // namespace OMC_SIMD
}  // namespace omc
