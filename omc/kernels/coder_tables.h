// Adaptive frequency tables; see omc/coding/tables.py, which these are to the last bit.
#ifndef OMC_KERNELS_CODER_TABLES_H_
#define OMC_KERNELS_CODER_TABLES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace omc {
namespace coding {

constexpr int kPrecision = 14;
constexpr uint32_t kTotal = 1u << kPrecision;
constexpr int64_t kFirst = 16;
constexpr int64_t kLongest = 4096;
constexpr uint64_t kHalveAt = 1 << 16;
constexpr int kAlphabet = 256;

// End of the block that begins at `begin`.
inline int64_t BlockEnd(int64_t begin, int64_t count, int lanes) {
  const int64_t length = std::max(kFirst, std::min(begin / 8, kLongest));
  return std::min(begin + (length + lanes - 1) / lanes * lanes, count);
}

// The tables of all contexts, as they grow with the tokens.
//
// An entry is a token's start in the lower, its frequency in the upper 16 bits.
class Tables {
 public:
  // `slots`: whether the token of each slot is wanted too, which decoding needs.
  Tables(int alphabet, int contexts, bool slots)
      : alphabet_(alphabet),
        contexts_(contexts),
        entries_(static_cast<size_t>(alphabet) * contexts),
        slots_(slots ? static_cast<size_t>(contexts) << kPrecision : 0),
        root_(alphabet),
        counts_(contexts > 1 ? entries_.size() : 0),
        seen_(entries_.size()),
        totals_(contexts),
        since_(contexts) {
    uint64_t shares[kAlphabet];
    std::fill(shares, shares + alphabet, 1);
    Make(0, shares);
    for (int context = 1; context < contexts; ++context) {
      std::copy_n(&entries_[0], alphabet, Entries(context));
      if (slots) std::copy_n(&slots_[0], kTotal, &slots_[size_t(context) << kPrecision]);
    }
  }

  uint32_t* Entries(int context) { return &entries_[static_cast<size_t>(context) * alphabet_]; }
  // Of the first context; those of the others follow.
  const uint8_t* Slots() const { return slots_.data(); }

  // Counts a block and renews the tables that it moves; `before(context)` is called ahead of each.
  template <typename Before>
  void Update(const uint8_t* tokens, const uint8_t* contexts, int64_t n, const Before& before) {
    Count(tokens, contexts, n);
    uint64_t sum = 0;
    for (int context = 0; context < contexts_; ++context) {
      uint32_t* seen = &seen_[static_cast<size_t>(context) * alphabet_];
      uint64_t more = 0;
      for (int s = 0; s < alphabet_; ++s) more += seen[s];
      moved_[context] = more > 0;
      if (!more) continue;
      for (int s = 0; s < alphabet_; ++s) root_[s] += seen[s];
      if (contexts_ > 1) {
        uint32_t* counts = &counts_[static_cast<size_t>(context) * alphabet_];
        for (int s = 0; s < alphabet_; ++s) counts[s] += seen[s];
      }
      totals_[context] += more;
      since_[context] += more;
      std::fill(seen, seen + alphabet_, 0);
    }
    for (int s = 0; s < alphabet_; ++s) sum += root_[s];
    if (sum > kHalveAt) {
      sum = Halve(&root_[0]);
    }
    for (int context = 0; context < contexts_; ++context) {
      if (!moved_[context]) continue;
      const uint64_t enough = std::min<uint64_t>(
          std::max<uint64_t>(totals_[context] / 10, kFirst), kLongest);
      if (since_[context] < enough) continue;
      before(context);
      Renew(context, sum + alphabet_);
    }
  }

 private:
  void Count(const uint8_t* tokens, const uint8_t* contexts, int64_t n) {
    uint32_t* seen = seen_.data();
    if (contexts_ > 1) {
      for (int64_t i = 0; i < n; ++i) ++seen[contexts[i] * alphabet_ + tokens[i]];
      return;
    }
    // Equal neighbours would wait for each other in one row of counts.
    uint32_t rows[4][kAlphabet] = {};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
      for (int row = 0; row < 4; ++row) ++rows[row][tokens[i + row]];
    for (; i < n; ++i) ++seen[tokens[i]];
    for (int s = 0; s < alphabet_; ++s)
      seen[s] += rows[0][s] + rows[1][s] + rows[2][s] + rows[3][s];
  }

  uint64_t Halve(uint32_t* counts) {
    uint64_t sum = 0;
    for (int s = 0; s < alphabet_; ++s) sum += counts[s] = (counts[s] + 1) / 2;
    return sum;
  }

  void Renew(int context, uint64_t root_sum) {
    uint64_t shares[kAlphabet];
    if (contexts_ == 1) {
      for (int s = 0; s < alphabet_; ++s) shares[s] = root_[s] + 1;
    } else {
      uint32_t* counts = &counts_[static_cast<size_t>(context) * alphabet_];
      if (totals_[context] > kHalveAt) totals_[context] = Halve(counts);
      for (int s = 0; s < alphabet_; ++s)
        shares[s] = 16ull * counts[s] + 256ull * (root_[s] + 1) / root_sum + 1;
    }
    since_[context] = 0;
    Make(context, shares);
  }

  void Make(int context, const uint64_t* shares) {
    uint64_t sum = 0, excess = 0, upto = 0;
    for (int s = 0; s < alphabet_; ++s) sum += shares[s];
    uint64_t dues[kAlphabet];
    for (int s = 0; s < alphabet_; ++s) {
      const uint64_t due = shares[s] << kPrecision;
      excess += due > sum ? due - sum : 0;
      dues[s] = excess;
    }
    uint32_t* entries = Entries(context);
    uint32_t start = 0;
    for (int s = 0; s < alphabet_; ++s) {
      const uint64_t next =
          alphabet_ == 1 ? kTotal - 1 : (kTotal - alphabet_) * dues[s] / excess;
      const uint32_t frequency = static_cast<uint32_t>(1 + next - upto);
      entries[s] = start | frequency << 16;
      if (!slots_.empty())
        std::memset(&slots_[(static_cast<size_t>(context) << kPrecision) + start], s, frequency);
      start += frequency;
      upto = next;
    }
  }

  const int alphabet_, contexts_;
  std::vector<uint32_t> entries_;
  std::vector<uint8_t> slots_;
  std::vector<uint32_t> root_, counts_, seen_;
  std::vector<uint64_t> totals_, since_;
  bool moved_[kAlphabet];
};

// floor(4096 log2(v)), v from 1 to 2^31 - 1.
inline uint32_t Log2(uint32_t value) {
  uint32_t result = 31 - __builtin_clz(value);
  uint64_t mantissa = static_cast<uint64_t>(value) << (31 - result);
  for (int i = 0; i < 12; ++i) {
    mantissa = mantissa * mantissa >> 31;
    const uint64_t large = mantissa >> 32;
    mantissa >>= large;
    result = 2 * result + static_cast<uint32_t>(large);
  }
  return result;
}

// Bits that tokens of these counts take under a table of their own.
inline uint64_t EntropyBits(const uint64_t* counts, int alphabet, uint64_t total) {
  uint64_t bits = 0;
  for (int s = 0; s < alphabet; ++s)
    if (counts[s]) bits += counts[s] * (Log2(total) - Log2(counts[s]));
  return bits >> 12;
}

}  // namespace coding
}  // namespace omc

#endif  // OMC_KERNELS_CODER_TABLES_H_
