#include <cmath>

#include "sweep.h"

namespace omc {

Format::Format(int bits, int sign_bits, int exponent_bits, int feedback_bits)
    : bits(bits), sign_bits(sign_bits), exponent_bits(exponent_bits) {
  const bool integer = exponent_bits == 0;
  const bool wide = exponent_bits == 8;
  mantissa_bits = bits - sign_bits - exponent_bits;
  const int bias = integer ? 0 : (1 << (exponent_bits - 1)) - 1;
  max_code = (1u << (exponent_bits + mantissa_bits)) - 1;
  if (wide) max_code -= 1u << mantissa_bits;  // Its top exponent is beyond float32.
  max = std::ldexp(1.0f, bits - 1) - 1.0f;
  step = integer ? 1.0f : std::ldexp(1.0f, 1 - bias - mantissa_bits);
  inverse_step = wide ? 0.0f : 1.0f / step;
  aligner = wide ? 0.0f : std::ldexp(step, 23);
  min_normal = wide ? 0.0f : std::ldexp(1.0f, 1 - bias);
  normal_from = wide ? 0 : 1u << mantissa_bits;
  rebias = integer ? 0 : static_cast<uint32_t>(127 - bias) << 23;
  const bool truncates = feedback_bits < 0;
  const int dropped = truncates ? -feedback_bits : feedback_bits;
  read_max = max_code >> dropped << dropped;
  half = dropped && !truncates ? 1u << (dropped - 1) : 0;
  keep = ~((1u << dropped) - 1);
  set = 0;
  if (integer && bits - dropped == 1 && !truncates) {  // Mid-rise: rounded down, in the step's middle.
    set = read_max = half;
    half = 0;
  }
}

}  // namespace omc
