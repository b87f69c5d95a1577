// The sweeps of a quantizer of activations, compiled as sweep.cc is.
#include <cmath>

#include "sweep.h"

namespace omc {
namespace OMC_SIMD {
namespace {

constexpr int kLanes = 16;

inline float Clip(float u, float most) {
  u = u < 0.0f ? 0.0f : u;  // NaN stays, so that divergence shows.
  return u > most ? most : u;
}

inline float Rounded(float u, float most) {
  return (Clip(u, most) + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23: ties to even.
}

void Forward(const Quantizer& q, const float* __restrict x, int64_t n, float* __restrict y) {
  const float inverse = q.inverse, offset = q.offset, most = q.most, scale = q.scale;
  for (int64_t i = 0; i < n; ++i)
    y[i] = Rounded((x[i] - offset) * inverse, most) * scale + offset;
}

void Backward(const Quantizer& q, const float* __restrict x, const float* dy, int64_t n, float* dx,
              double* sums) {
  const float inverse = q.inverse, offset = q.offset, most = q.most;
  float scale_lanes[kLanes] = {}, offset_lanes[kLanes] = {};
  const auto step = [&](int64_t i, int k) {
    const float g = dy[i], u = (x[i] - offset) * inverse;
    const bool inside = u >= 0.0f && u <= most;
    const float r = Rounded(u, most);
    dx[i] = inside ? g : 0.0f;
    scale_lanes[k] += g * (inside ? r - u : r);
    offset_lanes[k] += inside ? 0.0f : g;
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int k = 0; k < kLanes; ++k) step(i + k, k);
  for (int k = 0; i < n; ++i, ++k) step(i, k);
  for (int k = 0; k < kLanes; ++k) {
    sums[0] += scale_lanes[k];
    sums[1] += offset_lanes[k];
  }
}

}  // namespace

const QuantizerSweeps quantizer_sweeps = {Forward, Backward};

}  // namespace OMC_SIMD
}  // namespace omc
