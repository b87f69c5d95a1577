// Numbers and bits in the coded stream: what coder.cc writes with and reads by.
#ifndef OMC_KERNELS_CODER_BYTES_H_
#define OMC_KERNELS_CODER_BYTES_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace omc {
namespace coding {

inline uint32_t Zigzag(uint32_t v) { return v << 1 ^ (v >> 31 ? ~0u : 0u); }
inline uint32_t FromZigzag(uint32_t z) { return z >> 1 ^ (0u - (z & 1)); }

inline int BitLength(uint32_t value) { return value ? 32 - __builtin_clz(value) : 0; }

// Seven bits an octet, the lowest first.
inline void AppendVarint(uint32_t value, std::string* out) {
  for (; value > 127; value >>= 7) out->push_back(static_cast<char>((value & 127) | 128));
  out->push_back(static_cast<char>(value));
}

// Bits one after the other, from the lowest bit of the first byte on.
class BitWriter {
 public:
  // Appends to `out`, which grows at once by what `bits` bits take.
  BitWriter(uint64_t bits, std::string* out) {
    const size_t size = out->size();
    out->resize(size + (bits + 7) / 8);
    at_ = &(*out)[0] + size;
  }

  // At most 32 bits, none set above.
  void Put(uint32_t value, int width) {
    pending_ |= static_cast<uint64_t>(value) << held_;
    held_ += width;
    if (held_ >= 32) {
      std::memcpy(at_, &pending_, 4);
      at_ += 4;
      pending_ >>= 32;
      held_ -= 32;
    }
  }

  void Finish() {
    for (; held_ > 0; held_ -= 8, pending_ >>= 8) *at_++ = static_cast<char>(pending_);
  }

 private:
  char* at_;
  uint64_t pending_ = 0;
  int held_ = 0;
};

class BitReader {
 public:
  BitReader(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  // What is wrong with the data if so many bits are to fill it, or null.
  const char* Check(uint64_t bits) const {
    if (size_ != (bits + 7) / 8) return "raw bits of another length";
    if (bits % 8 && data_[size_ - 1] >> bits % 8) return "unused bits that are not 0";
    return nullptr;
  }

  // The next bits, 0 to 32 of them; what lies behind the end reads as 0.
  uint32_t Take(int width) {
    const size_t octet = place_ >> 3;
    uint64_t word = 0;
    if (octet + 8 <= size_) {
      std::memcpy(&word, data_ + octet, 8);
    } else if (octet < size_) {
      std::memcpy(&word, data_ + octet, size_ - octet);
    }
    word >>= place_ & 7;
    place_ += width;
    return static_cast<uint32_t>(word & ((uint64_t{1} << width) - 1));
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t place_ = 0;
};

// Takes numbers one after the other; from the first that is wrong on, `wrong` says why.
class Reader {
 public:
  Reader(const uint8_t* data, size_t size, size_t place) : data_(data), size_(size), at_(place) {}

  const uint8_t* Take(size_t length) {
    if (!wrong && length > size_ - at_) wrong = "truncated";
    if (wrong) return nullptr;
    at_ += length;
    return data_ + at_ - length;
  }

  uint8_t Byte() {
    const uint8_t* octet = Take(1);
    return octet ? *octet : 0;
  }

  uint32_t Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 35; shift += 7) {
      const uint8_t octet = Byte();
      if (wrong) return 0;
      value |= static_cast<uint64_t>(octet & 127) << shift;
      if (octet < 128) {
        if (value >> 32 || (shift && !octet)) break;
        return static_cast<uint32_t>(value);
      }
    }
    wrong = "malformed: a number too long";
    return 0;
  }

  size_t place() const { return at_; }
  size_t rest() const { return size_ - at_; }

  const char* wrong = nullptr;

 private:
  const uint8_t* data_;
  size_t size_, at_;
};

}  // namespace coding
}  // namespace omc

#endif  // OMC_KERNELS_CODER_BYTES_H_
