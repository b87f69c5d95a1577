// Entropy coder of codes, differences and updates: symbols <-> bytes, without TensorFlow.
//
// The fast form of omc/coding, which is the specification: the same bytes, to the last one.
#ifndef OMC_KERNELS_CODER_H_
#define OMC_KERNELS_CODER_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace omc {
namespace coding {

// zlib's CRC-32, going on from `crc`.
uint32_t Crc32(uint32_t crc, const uint8_t* data, size_t size);

// What stands before the body of a stream; see omc/coding/stream.py.
struct Head {
  int kind = 0;
  int lanes = 1;
  bool has_contexts = false;
  std::vector<uint32_t> shape;
  int64_t count = 0;  // Product of the shape; one more than `limit` where it is larger.
  const uint8_t* attachment = nullptr;
  size_t attachment_size = 0;
  size_t body = 0;  // Where the body begins.
};

// Coded bytes of `symbols` [product of shape]; `contexts` has as many, or is null.
std::string Encode(const int32_t* symbols, const std::vector<uint32_t>& shape,
                   const uint8_t* contexts, const uint8_t* attachment, size_t attachment_size,
                   uint32_t start);

// Reads the head of a stream; returns what is wrong with it, or null.
const char* ReadHead(const uint8_t* data, size_t size, int64_t limit, Head* head);

// Restores head.count symbols; returns what is wrong with the stream, or null.
const char* Decode(const uint8_t* data, size_t size, const Head& head, const uint8_t* contexts,
                   uint32_t start, int32_t* symbols);

}  // namespace coding
}  // namespace omc

#endif  // OMC_KERNELS_CODER_H_
