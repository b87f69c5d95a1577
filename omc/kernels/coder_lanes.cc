// rANS on interleaved lanes; see omc/coding/lanes.py, which this is to the last bit.
#include "coder_lanes.h"

#include <algorithm>

#include "coder_tables.h"

namespace omc {
namespace coding {
namespace {

constexpr uint32_t kLowest = 1u << 16;  // Where a lane's state begins and ends.

int CountContexts(const uint8_t* contexts, int64_t count) {
  uint8_t most = 0;
  for (int64_t i = 0; contexts && i < count; ++i) most = std::max(most, contexts[i]);
  return most + 1;
}

// floor(x / f) for every f of a table by a product (Lemire, arXiv 1902.01961).
struct Reciprocals {
  Reciprocals() {
    for (uint64_t f = 2; f <= kTotal; ++f) of[f] = ~uint64_t{0} / f + 1;
  }
  uint64_t of[kTotal + 1] = {};
};

// The tables of the blocks backwards: they change forwards, so each keeps what it replaces.
class Rewinder {
 public:
  Rewinder(const std::vector<uint8_t>& tokens, int alphabet, const uint8_t* contexts, int lanes)
      : alphabet_(alphabet), tables_(alphabet, CountContexts(contexts, tokens.size()), false) {
    const int64_t count = tokens.size();
    for (int64_t begin = 0; begin < count;) {
      const int64_t end = BlockEnd(begin, count, lanes);
      tables_.Update(&tokens[begin], contexts ? contexts + begin : nullptr, end - begin,
                     [&](int context) {
                       const uint32_t* entries = tables_.Entries(context);
                       entries_.insert(entries_.end(), entries, entries + alphabet);
                       changes_.push_back({end, context});
                     });
      begins_.push_back(begin);
      begin = end;
    }
  }

  // Steps back over the block that ends at `end`; returns where it begins.
  int64_t Back(int64_t end) {
    for (; !changes_.empty() && changes_.back().end == end; changes_.pop_back()) {
      entries_.resize(entries_.size() - alphabet_);
      std::copy_n(entries_.data() + entries_.size(), alphabet_,
                  tables_.Entries(changes_.back().context));
    }
    const int64_t begin = begins_.back();
    begins_.pop_back();
    return begin;
  }

  const uint32_t* entries() { return tables_.Entries(0); }

 private:
  struct Change {
    int64_t end;
    int context;
  };

  const int alphabet_;
  Tables tables_;
  std::vector<int64_t> begins_;
  std::vector<Change> changes_;
  std::vector<uint32_t> entries_;
};

// Pushes the tokens [first, first + n) onto the lanes from 0 on, the last one first.
template <bool kContexts>
uint16_t* PushStep(const uint8_t* tokens, const uint8_t* contexts, int alphabet,
                   const uint32_t* entries, const uint64_t* reciprocals, int n, uint32_t* state,
                   uint16_t* out) {
  for (int lane = n - 1; lane >= 0; --lane) {
    const uint32_t entry = entries[tokens[lane] + (kContexts ? contexts[lane] * alphabet : 0)];
    const uint32_t f = entry >> 16;
    uint32_t x = state[lane];
    // Without a branch, which would be mispredicted as often as not.
    const uint32_t full = x >= static_cast<uint64_t>(f) << (32 - kPrecision);
    *out = static_cast<uint16_t>(x);
    out += full;
    x >>= 16 * full;
    const uint32_t product =
        static_cast<uint32_t>(static_cast<unsigned __int128>(reciprocals[f]) * x >> 64);
    const uint32_t quotient = f == 1 ? x : product;
    state[lane] = (quotient << kPrecision) + (x - quotient * f) + (entry & 0xFFFF);
  }
  return out;
}

// What a state becomes when its token is popped, before it takes a word.
template <bool kContexts>
inline uint32_t PopOne(uint32_t x, const uint8_t* slots, const uint32_t* entries, int alphabet,
                       int context, uint8_t* token) {
  const uint32_t slot = x & (kTotal - 1);
  if (kContexts) {
    slots += static_cast<size_t>(context) << kPrecision;
    entries += context * alphabet;
  }
  *token = slots[slot];
  const uint32_t entry = entries[*token];
  return (entry >> 16) * (x >> kPrecision) + slot - (entry & 0xFFFF);
}

// Pops a block; false where words end too early.
template <bool kContexts>
bool PopBlock(const uint8_t* slots, const uint32_t* entries, int alphabet,
              const uint8_t* contexts, int64_t count, int lanes, uint32_t* state,
              const uint8_t** words, const uint8_t* last, uint8_t* tokens) {
  const uint8_t* word = *words;
  for (int64_t first = 0; first < count; first += lanes) {
    const int n = static_cast<int>(std::min<int64_t>(lanes, count - first));
    const bool plenty = last - word >= 2 * n;
    for (int lane = 0; plenty && lane < n; ++lane) {
      const int64_t i = first + lane;
      const uint32_t x = PopOne<kContexts>(state[lane], slots, entries, alphabet,
                                           kContexts ? contexts[i] : 0, &tokens[i]);
      uint16_t next;
      std::memcpy(&next, word, 2);
      const uint32_t is_short = x < kLowest;  // No branch here either.
      state[lane] = x << 16 * is_short | (next & (0u - is_short));
      word += 2 * is_short;
    }
    for (int lane = 0; !plenty && lane < n; ++lane) {
      const int64_t i = first + lane;
      uint32_t x = PopOne<kContexts>(state[lane], slots, entries, alphabet,
                                     kContexts ? contexts[i] : 0, &tokens[i]);
      if (x < kLowest) {
        uint16_t next;
        if (word == last) return false;
        std::memcpy(&next, word, 2);
        x = x << 16 | next;
        word += 2;
      }
      state[lane] = x;
    }
  }
  *words = word;
  return true;
}

}  // namespace

void Push(const std::vector<uint8_t>& tokens, int alphabet, const uint8_t* contexts, int lanes,
          std::vector<uint32_t>* states, std::vector<uint16_t>* words) {
  static const Reciprocals reciprocals;
  Rewinder rewinder(tokens, alphabet, contexts, lanes);
  states->assign(lanes, kLowest);
  words->resize(tokens.size() + 1);  // One more, for the last may be written and not kept.
  uint16_t* out = words->data();
  const auto push = contexts ? PushStep<true> : PushStep<false>;
  for (int64_t end = tokens.size(); end > 0;) {
    const int64_t begin = rewinder.Back(end);
    const uint32_t* entries = rewinder.entries();
    for (int64_t first = begin + (end - 1 - begin) / lanes * lanes; first >= begin; first -= lanes)
      out = push(&tokens[first], contexts ? contexts + first : nullptr, alphabet, entries,
                 reciprocals.of, static_cast<int>(std::min<int64_t>(lanes, end - first)),
                 states->data(), out);
    end = begin;
  }
  words->resize(out - words->data());
  std::reverse(words->begin(), words->end());
}

const char* Pop(const uint8_t* data, size_t words, int64_t count, int alphabet,
                const uint8_t* contexts, int lanes, uint8_t* tokens) {
  uint32_t state[kMostLanes];
  std::memcpy(state, data, 4 * lanes);
  for (int lane = 0; lane < lanes; ++lane)
    if (state[lane] < kLowest) return "a state below its range";
  const uint8_t* word = data + 4 * lanes;
  const uint8_t* last = word + 2 * words;
  Tables tables(alphabet, CountContexts(contexts, count), true);
  const auto pop = contexts ? PopBlock<true> : PopBlock<false>;
  for (int64_t begin = 0; begin < count;) {
    const int64_t end = BlockEnd(begin, count, lanes);
    const uint8_t* given = contexts ? contexts + begin : nullptr;
    if (!pop(tables.Slots(), tables.Entries(0), alphabet, given, end - begin, lanes, state, &word,
             last, tokens + begin))
      return "words end too early";
    tables.Update(tokens + begin, given, end - begin, [](int) {});
    begin = end;
  }
  for (int lane = 0; lane < lanes; ++lane)
    if (word != last || state[lane] != kLowest) return "words and tokens do not end together";
  return nullptr;
}

}  // namespace coding
}  // namespace omc
