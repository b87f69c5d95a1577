// rANS on interleaved lanes: tokens <-> states and 16-bit words; see omc/coding/lanes.py.
#ifndef OMC_KERNELS_CODER_LANES_H_
#define OMC_KERNELS_CODER_LANES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace omc {
namespace coding {

constexpr int kMostLanes = 256;

// Codes tokens below `alphabet` (1 to 256), given contexts of as many, or null.
void Push(const std::vector<uint8_t>& tokens, int alphabet, const uint8_t* contexts, int lanes,
          std::vector<uint32_t>* states, std::vector<uint16_t>* words);

// Restores `count` tokens of the states of `lanes` and so many words after them, which are there;
// returns what is wrong with them, or null.
const char* Pop(const uint8_t* data, size_t words, int64_t count, int alphabet,
                const uint8_t* contexts, int lanes, uint8_t* tokens);

}  // namespace coding
}  // namespace omc

#endif  // OMC_KERNELS_CODER_LANES_H_
