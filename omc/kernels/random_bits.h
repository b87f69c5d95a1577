// The random bits of every sweep; as random_bits in omc/transforms.py.
#ifndef OMC_KERNELS_RANDOM_BITS_H_
#define OMC_KERNELS_RANDOM_BITS_H_

#include <cstdint>

namespace omc {

// 32 random bits of weight i under a key (after "lowbias32" by C. Wellons, public domain).
inline uint32_t Random(uint32_t i, const uint32_t* key) {
  uint32_t x = i + key[0];
  x = (x ^ x >> 16) * 0x7feb352du;
  x = ((x ^ x >> 15) + key[1]) * 0x846ca68bu;
  return x ^ x >> 16;
}

}  // namespace omc

#endif  // OMC_KERNELS_RANDOM_BITS_H_
