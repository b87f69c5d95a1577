// One sweep over a variable's codes: what the ops in ops.cc share out among threads.
//
// The layout of a buffer is that of omc/packing.py, the arithmetic that of omc/transforms.py, to the
// last bit: every product and sum here is one float32 operation there, in the same order.
#ifndef OMC_KERNELS_SWEEP_H_
#define OMC_KERNELS_SWEEP_H_

#include <cstdint>

namespace omc {

// A number format as its loops need it; see omc/formats.py.
struct Format {
  // A negative number of feedback bits: reads cut them off.
  Format(int bits, int sign_bits, int exponent_bits, int feedback_bits);

  int bits;              // Width of a code.
  int sign_bits;         // 0 or 1.
  int exponent_bits;     // 0 for integers.
  int mantissa_bits;
  uint32_t max_code;     // Code of the largest magnitude, without the sign.
  float max;             // Largest value of an integer format; under a transform -max the least.
  float step;            // Distance of neighbouring codes near zero.
  float inverse_step;
  float aligner;         // 2^23 steps: adding it rounds a subnormal to a code.
  float min_normal;      // 0 where float32's subnormals serve.
  uint32_t normal_from;  // Code of min_normal.
  uint32_t rebias;       // What turns the exponent field into float32's, in float32's bits.
  uint32_t read_max;     // Largest code magnitude of a read: max_code without feedback bits.
  uint32_t half, keep;   // A read of code c is (c + half) & keep | set, at most read_max.
  uint32_t set;
};

// Codes of one variable: 8 rows of `columns`, of which the first `count` are weights.
struct Layout {
  int64_t count;
  int64_t columns;
};

struct Transform {
  float scale;
  float offset;
};

// What moves the weights: u + delta * factor, rounded after a product with `shrink`.
struct Move {
  const float* delta;  // [count]
  float factor;        // sign / scale
  float shrink;        // 1 / growth of the scale; 1 where the range holds.
  bool stochastic;
  uint32_t key[2];     // Of the random bits.
};

// The sweeps of one instruction set, over the columns [begin, end) of all rows.
struct Sweeps {
  // values[i] = scale * u'[i] + offset; without a transform u' itself.
  void (*decode)(const Format&, const Layout&, const uint8_t* planes, const Transform* transform,
                 int64_t begin, int64_t end, float* values);
  // Writes the moved codes and returns the largest |u + delta * factor|, before `shrink`.
  float (*move)(const Format&, const Layout&, const uint8_t* planes, const Move&, int64_t begin,
                int64_t end, uint8_t* moved);
  // Sum of gradient[i] * d[i], where d = u' - u is what a read at fewer bits rounds away, or u' of
  // a code that saturates. Blocks of kBlock columns have sums that no sharing out changes.
  double (*scale_gradient)(const Format&, const Layout&, const uint8_t* planes,
                           const float* gradient, int64_t begin, int64_t end);
  // Writes codes of `bits` as codes of `new_bits`, which are more, with zeros for what is new.
  void (*widen)(const Layout&, const uint8_t* planes, int bits, int new_bits, int64_t begin,
                int64_t end, uint8_t* widened);
};

constexpr int64_t kBlock = 512;

// Uniform quantization of activations; see omc/keras/quantizers.py.
struct Quantizer {
  float scale;
  float inverse;  // 1 / scale
  float offset;
  float most;     // 2^bits - 1
};

struct QuantizerSweeps {
  // y[i] = clip(round((x[i] - offset) / scale), 0, most) * scale + offset
  void (*forward)(const Quantizer&, const float* x, int64_t n, float* y);
  // dx of dy, and the gradients of scale and offset added to sums[0] and sums[1].
  void (*backward)(const Quantizer&, const float* x, const float* dy, int64_t n, float* dx,
                   double* sums);
};

// Uniform quantization under a dither; see omc/coding/dither.py.
struct Dither {
  float step;
  uint32_t key[2];  // Of the random bits.
};

struct DitherSweeps {
  // Symbols and contexts of x[i], the weights from `first` on, and the sum of squared errors.
  double (*quantize)(const Dither&, const float* x, int64_t first, int64_t n, int32_t* symbols,
                     uint8_t* contexts);
  void (*contexts)(const Dither&, int64_t first, int64_t n, uint8_t* contexts);
  void (*read)(const Dither&, const int32_t* symbols, int64_t first, int64_t n, float* values);
};

namespace portable {
extern const Sweeps sweeps;
extern const QuantizerSweeps quantizer_sweeps;
extern const DitherSweeps dither_sweeps;
}
namespace avx2 {
extern const Sweeps sweeps;
extern const QuantizerSweeps quantizer_sweeps;
extern const DitherSweeps dither_sweeps;
}
namespace avx512 {
extern const Sweeps sweeps;
extern const QuantizerSweeps quantizer_sweeps;
extern const DitherSweeps dither_sweeps;
}

// Those for this processor; OMC_SIMD=portable or avx2 asks for less than it has.
const Sweeps& BestSweeps();
const QuantizerSweeps& BestQuantizerSweeps();
const DitherSweeps& BestDitherSweeps();

}  // namespace omc

#endif  // OMC_KERNELS_SWEEP_H_
