// The sweeps of sweep.h, in loops that the compiler vectorizes. build.py compiles this file once for
// each instruction set, with OMC_SIMD naming it, and without contraction of a * b + c, which would
// round differently.
#include "random_bits.h"
#include "sweep.h"

#include <cstring>

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace omc {
namespace OMC_SIMD {
namespace {

constexpr int kRows = 8;
constexpr int64_t kStreamed = 1 << 20;  // Weights from which results go past the caches.
constexpr int64_t kTile = 512;  // Columns at a time: a tile's codes stay in the first cache.

inline float AsFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t AsBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// The planes of n-bit codes as one row sees them.
template <int kBits, typename Byte>
struct Row {
  static constexpr int kWhole = kBits / 8;
  static constexpr bool kFour = kBits & 4, kTwo = kBits & 2, kOne = kBits & 1;

  Row(Byte* planes, int64_t columns, int row) {
    for (int k = 0; k < kWhole; ++k, planes += 8 * columns) whole[k] = planes + row * columns;
    part[0] = planes + row % 4 * columns;
    if (kFour) planes += 4 * columns;
    part[1] = planes + row % 2 * columns;
    if (kTwo) planes += 2 * columns;
    part[2] = planes;
    for (int k = 0; k < 3; ++k) shift[k] = (4 >> k) * (row / (4 >> k));
  }

  Byte* whole[4];
  Byte* part[3];  // Of width 4, 2 and 1.
  int shift[3];
};

template <int kBits>
inline uint32_t CodeAt(const Row<kBits, const uint8_t>& row, int64_t c) {
  using R = Row<kBits, const uint8_t>;
  uint32_t code = 0;
  if (R::kWhole > 0) code = row.whole[0][c];
  if (R::kWhole > 1) code = code << 8 | row.whole[1][c];
  if (R::kWhole > 2) code = code << 8 | row.whole[2][c];
  if (R::kWhole > 3) code = code << 8 | row.whole[3][c];
  if (R::kFour) code = code << 4 | ((row.part[0][c] >> row.shift[0]) & 15);
  if (R::kTwo) code = code << 2 | ((row.part[1][c] >> row.shift[1]) & 3);
  if (R::kOne) code = code << 1 | ((row.part[2][c] >> row.shift[2]) & 1);
  return code;
}

// Writes the codes of a tile into the planes; the rows come in order, so the first sets the bits.
template <int kBits>
void Pack(const uint32_t* codes, int64_t n, int64_t c0, int row_index,
          const Row<kBits, uint8_t>& row) {
  using R = Row<kBits, uint8_t>;
  int below = kBits;
  for (int k = 0; k < R::kWhole; ++k) {
    below -= 8;
    uint8_t* bytes = row.whole[k] + c0;
    for (int64_t c = 0; c < n; ++c) bytes[c] = static_cast<uint8_t>(codes[c] >> below);
  }
  for (int k = 0; k < 3; ++k) {
    const int width = 4 >> k;
    if (!(kBits & width)) continue;
    below -= width;
    const uint32_t mask = (1u << width) - 1;
    const int shift = row.shift[k];
    uint8_t* bytes = row.part[k] + c0;
    if (row_index < width) {
      for (int64_t c = 0; c < n; ++c) bytes[c] = static_cast<uint8_t>(codes[c] >> below & mask);
    } else {
      for (int64_t c = 0; c < n; ++c)
        bytes[c] |= static_cast<uint8_t>((codes[c] >> below & mask) << shift);
    }
  }
}

// Functions of their own (noinline) for each width: one huge function spills its registers.
enum Kind { kMinifloat, kInteger };

inline uint32_t Select(bool first, uint32_t a, uint32_t b) {  // Never a branch.
  const uint32_t mask = -static_cast<uint32_t>(first);
  return (a & mask) | (b & ~mask);
}

template <int kBits, Kind kKind>
inline float Value(uint32_t code, const Format& f) {
  const int32_t read_max = static_cast<int32_t>(f.read_max);
  if (kKind == kInteger) {
    const int32_t extended = static_cast<int32_t>(code << (32 - kBits)) >> (32 - kBits);
    const int32_t read = static_cast<int32_t>(((extended + f.half) & f.keep) | f.set);
    return static_cast<float>(read < read_max ? read : read_max);
  }
  const int fields = f.exponent_bits + f.mantissa_bits;
  int32_t read = static_cast<int32_t>(((code & ((1u << fields) - 1)) + f.half) & f.keep);
  read = read < read_max ? read : read_max;
  const uint32_t magnitude = static_cast<uint32_t>(read);
  // f.normal_from is 0 with 8 exponent bits, where float32's own subnormals have the structure.
  const float subnormal = static_cast<float>(read) * f.step;
  const uint32_t normal = (magnitude << (23 - f.mantissa_bits)) + f.rebias;
  const uint32_t bits = Select(magnitude < f.normal_from, AsBits(subnormal), normal);
  // A format without a sign has no bit there; shifting it out leaves 0.
  return AsFloat(bits | (f.sign_bits ? code >> fields << 31 : 0));
}

inline int32_t UpOrDown(float steps, uint32_t noise) {
  // floor() of what fits an int32, without a call.
  int32_t below = static_cast<int32_t>(steps);
  below -= static_cast<float>(below) > steps;
  const float draw = AsFloat((noise & 0x7fffff) | 0x3f800000) - 1.0f;
  return below + (draw < steps - static_cast<float>(below));
}

template <int kBits, Kind kKind, bool kStochastic>
inline uint32_t Code(float value, uint32_t noise, const Format& f) {
  if (kKind == kInteger) {
    value = value < -f.max ? -f.max : value;
    value = value > f.max ? f.max : value;
    if (kStochastic) return static_cast<uint32_t>(UpOrDown(value, noise));
    const float nearest = (value + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23: ties to even.
    return static_cast<uint32_t>(static_cast<int32_t>(nearest));
  }
  const uint32_t bits = AsBits(value), magnitude = bits & 0x7fffffff;
  const int dropped = 23 - f.mantissa_bits;
  uint32_t code = magnitude;
  if (kStochastic) {
    code += noise & ((1u << dropped) - 1);
  } else if (dropped) {
    code += (code >> dropped & 1) + ((1u << (dropped - 1)) - 1);
  }
  code = (code >> dropped) - (f.rebias >> dropped);
  const float size = AsFloat(magnitude);
  uint32_t small;
  if (kStochastic) {
    const float within = size < f.min_normal ? size : f.min_normal;
    small = static_cast<uint32_t>(UpOrDown(within * f.inverse_step, noise));
  } else {
    small = AsBits(size + f.aligner) - AsBits(f.aligner);
  }
  code = Select(size < f.min_normal, small, code);
  // As signed numbers, as in TensorFlow: below the normals the unused branch is negative.
  code = static_cast<int32_t>(code) < static_cast<int32_t>(f.max_code) ? code : f.max_code;
  const uint32_t sign = bits >> 31 << (kBits - 1);
  return Select(code == 0, 0, code | sign);  // No -0 under a transform.
}

#ifdef __F16C__

// Decodes through the processor's conversion of IEEE halves, which hold every value of a narrower
// format with a factor 2^(bias - 15): twice as fast, and exact like the plain loop.
inline void Store(float* out, __m256 values, bool stream) {
  if (stream) {
    _mm256_stream_ps(out, values);
  } else {
    _mm256_storeu_ps(out, values);
  }
}

struct Halves {
  typedef uint16_t Words __attribute__((vector_size(32)));
  static constexpr int kLanes = 16;

  // The top exponent of halves means Inf and NaN, so formats must stay below it.
  static bool Fit(const Format& f, float scale) {
    return f.sign_bits && f.exponent_bits >= 2 && f.exponent_bits <= 4 && f.mantissa_bits <= 10 &&
           f.keep == ~0u && scale < 0x1p100f;
  }

  static Words Load(const uint8_t* bytes) {
    const __m128i loaded = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    return reinterpret_cast<Words>(_mm256_cvtepu8_epi16(loaded));
  }

  // Decodes columns from `first` on while 16 are left; returns where it stopped.
  template <int kBits>
  static int64_t Decode(const Format& f, const Row<kBits, const uint8_t>& row, int64_t first,
                        int64_t last, float scale, float offset, bool transform, bool stream,
                        float* out) {
    using R = Row<kBits, const uint8_t>;
    const uint16_t fields = f.exponent_bits + f.mantissa_bits, shift = 10 - f.mantissa_bits;
    const uint16_t mask = (1 << fields) - 1;
    const uint16_t four = row.shift[0], two = row.shift[1], one = row.shift[2];
    const int bias = (1 << (f.exponent_bits - 1)) - 1;
    const __m256 factor = _mm256_set1_ps(scale * static_cast<float>(1 << (15 - bias)));
    const __m256 added = _mm256_set1_ps(offset);
    int64_t c = first;
    for (; c + kLanes <= last; c += kLanes) {
      Words code = {};
      if (R::kWhole > 0) code = Load(row.whole[0] + c);
      if (R::kWhole > 1) code = code << 8 | Load(row.whole[1] + c);
      if (R::kFour) code = code << 4 | ((Load(row.part[0] + c) >> four) & 15);
      if (R::kTwo) code = code << 2 | ((Load(row.part[1] + c) >> two) & 3);
      if (R::kOne) code = code << 1 | ((Load(row.part[2] + c) >> one) & 1);
      const Words halves = (code >> fields << 15) | ((code & mask) << shift);
      const __m256i both = reinterpret_cast<__m256i>(halves);
      const __m128i parts[] = {_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)};
      for (int k = 0; k < 2; ++k) {
        __m256 values = _mm256_mul_ps(_mm256_cvtph_ps(parts[k]), factor);
        if (transform) values = _mm256_add_ps(values, added);
        Store(out + c + 8 * k, values, stream);
      }
    }
    return c;
  }
};

// Decodes codes of 16 bits and more, but for their last 8, through vectors of 16-bit words.
struct Wide {
  static constexpr int kLanes = 16;

  static bool Fit(const Format& f) { return f.sign_bits && f.exponent_bits <= 7 && f.keep == ~0u; }

  template <int kBits>
  static int64_t Decode(const Format& f, const Row<kBits, const uint8_t>& row, int64_t first,
                        int64_t last, float scale, float offset, bool transform, bool stream,
                        float* out) {
    using R = Row<kBits, const uint8_t>;
    typedef Halves::Words Words;
    const uint16_t four = row.shift[0], two = row.shift[1], one = row.shift[2];
    const __m128i narrow = _mm_cvtsi32_si128(8 - f.exponent_bits);
    const __m256i all = _mm256_set1_epi32(0x7fffffff), rebias = _mm256_set1_epi32(f.rebias);
    const __m256i normal_from = _mm256_set1_epi32(f.rebias + (1 << 23));
    const __m256 min_normal = _mm256_set1_ps(f.min_normal);
    const __m256 factor = _mm256_set1_ps(scale), added = _mm256_set1_ps(offset);
    int64_t c = first;
    for (; c + kLanes <= last; c += kLanes) {
      const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row.whole[0] + c));
      const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row.whole[1] + c));
      const __m128i upper[] = {_mm_unpacklo_epi8(low, high), _mm_unpackhi_epi8(low, high)};
      Words rest = {};
      if (R::kFour) rest = (Halves::Load(row.part[0] + c) >> four) & 15;
      if (R::kTwo) rest = rest << 2 | ((Halves::Load(row.part[1] + c) >> two) & 3);
      if (R::kOne) rest = rest << 1 | ((Halves::Load(row.part[2] + c) >> one) & 1);
      const __m256i rests = reinterpret_cast<__m256i>(rest);
      const __m128i lower[] = {_mm256_castsi256_si128(rests), _mm256_extracti128_si256(rests, 1)};
      for (int k = 0; k < 2; ++k) {
        __m256i code = _mm256_slli_epi32(_mm256_cvtepu16_epi32(upper[k]), 16);
        if (kBits > 16) {
          const __m256i wide = _mm256_cvtepu16_epi32(lower[k]);
          code = _mm256_or_si256(code, _mm256_slli_epi32(wide, 32 - kBits));
        }
        const __m256i magnitude =
            _mm256_add_epi32(_mm256_srl_epi32(_mm256_and_si256(code, all), narrow), rebias);
        const __m256 sign = _mm256_castsi256_ps(_mm256_andnot_si256(all, code));
        __m256 value = _mm256_castsi256_ps(magnitude);
        const __m256 small = _mm256_castsi256_ps(_mm256_cmpgt_epi32(normal_from, magnitude));
        value = _mm256_add_ps(value, _mm256_and_ps(small, _mm256_sub_ps(value, min_normal)));
        value = _mm256_mul_ps(_mm256_or_ps(value, sign), factor);
        if (transform) value = _mm256_add_ps(value, added);
        Store(out + c + 8 * k, value, stream);
      }
    }
    return c;
  }
};

#endif  // __F16C__

template <int kBits, Kind kKind>
__attribute__((noinline)) void Decode(const Format& format, const Layout& layout, const uint8_t* planes,
            const Transform* transform, int64_t begin, int64_t end, float* values) {
  const Format f = format;
  const float scale = transform ? transform->scale : 1.0f;
  const float offset = transform ? transform->offset : 0.0f;
  const bool stream = layout.count >= kStreamed && layout.columns % 8 == 0 && begin % 8 == 0 &&
                      reinterpret_cast<uintptr_t>(values) % 32 == 0;
  for (int64_t tile = begin; tile < end; tile += kTile) {
    const int64_t stop = tile + kTile < end ? tile + kTile : end;
    for (int r = 0; r < kRows; ++r) {
      const Row<kBits, const uint8_t> row(planes, layout.columns, r);
      const int64_t left = layout.count - r * layout.columns;
      const int64_t last = stop < left ? stop : left;
      float* __restrict out = values + r * layout.columns;
      int64_t first = tile;
#ifdef __F16C__
      if constexpr (kKind == kMinifloat && kBits <= 15) {
        if (Halves::Fit(f, scale)) {
          first = Halves::Decode<kBits>(f, row, tile, last, scale, offset, transform, stream, out);
        }
      }
      if constexpr (kKind == kMinifloat && kBits >= 16 && kBits < 24) {
        if (Wide::Fit(f)) {
          first = Wide::Decode<kBits>(f, row, tile, last, scale, offset, transform, stream, out);
        }
      }
#endif
      if (transform) {
        for (int64_t c = first; c < last; ++c)
          out[c] = Value<kBits, kKind>(CodeAt<kBits>(row, c), f) * scale + offset;
      } else {
        for (int64_t c = first; c < last; ++c)
          out[c] = Value<kBits, kKind>(CodeAt<kBits>(row, c), f);
      }
    }
  }
#ifdef __F16C__
  if (stream) _mm_sfence();
#endif
}

template <int kBits, Kind kKind, bool kStochastic>
__attribute__((noinline)) float MoveCodes(const Format& format, const Layout& layout, const uint8_t* planes, const Move& move,
                int64_t begin, int64_t end, uint8_t* moved) {
  Format f = format;
  f.read_max = f.max_code, f.half = f.set = 0, f.keep = ~0u;  // Updates add to the feedback bits.
  const float factor = move.factor, shrink = move.shrink;
  const uint32_t key[2] = {move.key[0], move.key[1]};
  alignas(64) uint32_t codes[kTile];
  int32_t largest = 0;  // Bits of a float that is not negative order like integers.
  for (int64_t tile = begin; tile < end; tile += kTile) {
    const int64_t stop = tile + kTile < end ? tile + kTile : end;
    for (int r = 0; r < kRows; ++r) {
      const Row<kBits, const uint8_t> row(planes, layout.columns, r);
      const int64_t left = layout.count - r * layout.columns;
      const int64_t last = stop < left ? stop : left;
      const float* __restrict delta = move.delta + r * layout.columns;
      const uint32_t first = static_cast<uint32_t>(r * layout.columns);
      for (int64_t c = tile; c < last; ++c) {
        const float u = Value<kBits, kKind>(CodeAt<kBits>(row, c), f);
        float shift = delta[c] * factor;
        shift = (AsBits(shift) & 0x7f800000) == 0x7f800000 ? 0.0f : shift;
        const float sum = u + shift;
        const int32_t size = static_cast<int32_t>(AsBits(sum) & 0x7fffffff);
        largest = size > largest ? size : largest;
        const uint32_t noise = kStochastic ? Random(first + static_cast<uint32_t>(c), key) : 0;
        codes[c - tile] = Code<kBits, kKind, kStochastic>(sum * shrink, noise, f);
      }
      for (int64_t c = last > tile ? last : tile; c < stop; ++c) codes[c - tile] = 0;  // Padding.
      Pack<kBits>(codes, stop - tile, tile, r, Row<kBits, uint8_t>(moved, layout.columns, r));
    }
  }
  return AsFloat(static_cast<uint32_t>(largest));
}

// Calls visit<bits>() for the format's width, which has to be a constant in the loops.
template <int kBits, typename Visit>
auto AtWidth(int bits, const Visit& visit) {
  if constexpr (kBits < 32) {
    if (bits != kBits) return AtWidth<kBits + 1>(bits, visit);
  }
  return visit.template At<kBits>();
}

struct DecodeAt {
  const Format& f;
  const Layout& layout;
  const uint8_t* planes;
  const Transform* transform;
  int64_t begin, end;
  float* values;

  template <int kBits>
  int At() const {
    auto run = Decode<kBits, kMinifloat>;
    if constexpr (kBits <= 8) {
      if (!f.exponent_bits) run = Decode<kBits, kInteger>;
    }
    run(f, layout, planes, transform, begin, end, values);
    return 0;
  }
};

// The lanes are summed apart, which the compiler may vectorize, and in the same order everywhere.
template <int kBits, Kind kKind>
__attribute__((noinline)) double ScaleGradient(const Format& format, const Layout& layout, const uint8_t* planes,
                     const float* gradient, int64_t begin, int64_t end) {
  constexpr int kLanes = 16;
  const Format f = format;
  Format full = format;
  full.read_max = full.max_code, full.half = full.set = 0, full.keep = ~0u;
  const int fields = f.exponent_bits + f.mantissa_bits;
  double sum = 0.0;
  for (int r = 0; r < kRows; ++r) {
    const Row<kBits, const uint8_t> row(planes, layout.columns, r);
    const int64_t left = layout.count - r * layout.columns;
    const int64_t last = end < left ? end : left;
    const float* __restrict g = gradient + r * layout.columns;
    float lanes[kLanes] = {};
    const auto term = [&](int64_t c) {
      const uint32_t code = CodeAt<kBits>(row, c);
      const float read = Value<kBits, kKind>(code, f), exact = Value<kBits, kKind>(code, full);
      const uint32_t magnitude = kKind == kInteger ? 0 : code & ((1u << fields) - 1);
      const bool saturated = kKind == kInteger ? exact >= f.max || exact <= -f.max
                                               : magnitude >= f.max_code;
      const float d = AsFloat(Select(saturated, AsBits(read), AsBits(read - exact)));
      const uint32_t bits = AsBits(g[c]);
      return AsFloat(Select((bits & 0x7f800000) == 0x7f800000, 0, bits)) * d;
    };
    int64_t c = begin;
    for (; c + kLanes <= last; c += kLanes)
      for (int k = 0; k < kLanes; ++k) lanes[k] += term(c + k);
    for (int k = 0; c < last; ++c, ++k) lanes[k] += term(c);
    for (int k = 0; k < kLanes; ++k) sum += lanes[k];
  }
  return sum;
}

struct ScaleGradientAt {
  const Format& f;
  const Layout& layout;
  const uint8_t* planes;
  const float* gradient;
  int64_t begin, end;

  template <int kBits>
  double At() const {
    auto run = ScaleGradient<kBits, kMinifloat>;
    if constexpr (kBits <= 8) {
      if (!f.exponent_bits) run = ScaleGradient<kBits, kInteger>;
    }
    return run(f, layout, planes, gradient, begin, end);
  }
};

struct MoveAt {
  const Format& f;
  const Layout& layout;
  const uint8_t* planes;
  const Move& move;
  int64_t begin, end;
  uint8_t* moved;

  template <int kBits, bool kStochastic>
  float Run() const {
    auto run = MoveCodes<kBits, kMinifloat, kStochastic>;
    if constexpr (kBits <= 8) {
      if (!f.exponent_bits) run = MoveCodes<kBits, kInteger, kStochastic>;
    }
    return run(f, layout, planes, move, begin, end, moved);
  }

  template <int kBits>
  float At() const {
    return move.stochastic ? Run<kBits, true>() : Run<kBits, false>();
  }
};

// Codes of a part of a row, and back into planes: apart, so that any two widths go together.
template <int kBits>
__attribute__((noinline)) void Unpack(const uint8_t* planes, const Layout& layout, int row_index,
                                      int64_t first, int64_t n, uint32_t* codes) {
  const Row<kBits, const uint8_t> row(planes, layout.columns, row_index);
  for (int64_t c = 0; c < n; ++c) codes[c] = CodeAt<kBits>(row, first + c);
}

struct UnpackAt {
  template <int kBits>
  auto At() const {
    return Unpack<kBits>;
  }
};

template <int kBits>
__attribute__((noinline)) void PackRow(const uint32_t* codes, const Layout& layout, int row_index,
                                       int64_t first, int64_t n, uint8_t* planes) {
  Pack<kBits>(codes, n, first, row_index, Row<kBits, uint8_t>(planes, layout.columns, row_index));
}

struct PackAt {
  template <int kBits>
  auto At() const {
    return PackRow<kBits>;
  }
};

void Widen(const Layout& layout, const uint8_t* planes, int bits, int new_bits, int64_t begin,
           int64_t end, uint8_t* widened) {
  const auto unpack = AtWidth<2>(bits, UnpackAt{});
  const auto pack = AtWidth<2>(new_bits, PackAt{});
  alignas(64) uint32_t codes[kTile];
  for (int64_t tile = begin; tile < end; tile += kTile) {
    const int64_t n = tile + kTile < end ? kTile : end - tile;
    for (int r = 0; r < kRows; ++r) {
      unpack(planes, layout, r, tile, n, codes);
      for (int64_t c = 0; c < n; ++c) codes[c] <<= new_bits - bits;
      pack(codes, layout, r, tile, n, widened);
    }
  }
}

void DecodeAny(const Format& f, const Layout& layout, const uint8_t* planes,
               const Transform* transform, int64_t begin, int64_t end, float* values) {
  AtWidth<2>(f.bits, DecodeAt{f, layout, planes, transform, begin, end, values});
}

float MoveAny(const Format& f, const Layout& layout, const uint8_t* planes, const Move& move,
              int64_t begin, int64_t end, uint8_t* moved) {
  return AtWidth<2>(f.bits, MoveAt{f, layout, planes, move, begin, end, moved});
}

double ScaleGradientAny(const Format& f, const Layout& layout, const uint8_t* planes,
                        const float* gradient, int64_t begin, int64_t end) {
  return AtWidth<2>(f.bits, ScaleGradientAt{f, layout, planes, gradient, begin, end});
}

}  // namespace

const Sweeps sweeps = {DecodeAny, MoveAny, ScaleGradientAny, Widen};

}  // namespace OMC_SIMD
}  // namespace omc
