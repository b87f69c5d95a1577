// The coded stream of omc/coding/stream.py, version 1.
#include "coder.h"

#include <algorithm>
#include <array>

#include "coder_bytes.h"
#include "coder_lanes.h"
#include "coder_tables.h"

namespace omc {
namespace coding {
namespace {

constexpr uint8_t kMagic = 0xC0, kVersion = 1;
constexpr size_t kHead = 6;  // Up to and with `form`.
constexpr int kPlain = 0, kShifted = 1, kHybrid = 2;
constexpr uint32_t kDirect = 16;
constexpr int kLog2Sample = 16;
constexpr int kLog2MostSteps = 16;
constexpr uint64_t kBytesALane = 1024;
constexpr int kHybridAlphabet = 128;

using CrcTable = std::array<std::array<uint32_t, 256>, 8>;

CrcTable MakeCrcTable() {
  CrcTable table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    table[0][i] = crc;
  }
  for (int row = 1; row < 8; ++row)
    for (int i = 0; i < 256; ++i)
      table[row][i] = table[row - 1][i] >> 8 ^ table[0][table[row - 1][i] & 255];
  return table;
}

uint32_t HybridToken(uint32_t z) {
  if (z < kDirect) return z;
  const int n = BitLength(z) - 1;
  return kDirect + 4 * (n - 4) + (z >> (n - 2) & 3);
}

int HybridWidth(uint32_t token) { return token < kDirect ? 0 : (token - kDirect) / 4 + 2; }

struct Range {
  int32_t low = 0;
  uint32_t most = 0;  // Largest symbol - low.
};

Range RangeOf(const int32_t* symbols, int64_t count) {
  if (!count) return {};
  int32_t low = symbols[0], high = symbols[0];
  for (int64_t i = 1; i < count; ++i) {
    low = std::min(low, symbols[i]);
    high = std::max(high, symbols[i]);
  }
  return {low, static_cast<uint32_t>(high) - static_cast<uint32_t>(low)};
}

std::string Low(const Range& range, int shift) {
  std::string out;
  AppendVarint(Zigzag(static_cast<uint32_t>(range.low)), &out);
  out.push_back(static_cast<char>(shift));
  return out;
}

int Log2Lanes(uint64_t number) {
  return BitLength(static_cast<uint32_t>(std::min<uint64_t>(number | 1, kMostLanes))) - 1;
}

// Of the lanes that so many symbols have at least, so that decoding takes few steps.
int FewestLog2Lanes(int64_t count) { return Log2Lanes(count >> kLog2MostSteps); }

// Which tokens are to be used, and how many lanes.
struct Plan {
  int kind = kShifted;
  int shift = 0;
  int alphabet = 1;
  int log2_lanes = 0;
};

Plan MakePlan(const int32_t* symbols, int64_t count, const Range& range) {
  const uint32_t low = static_cast<uint32_t>(range.low);
  Plan plan;
  plan.shift = std::max(0, BitLength(range.most) - 8);
  plan.alphabet = (range.most >> plan.shift) + 1;
  const int64_t stride = std::max<int64_t>(count >> kLog2Sample, 1);
  uint64_t shifted[kAlphabet] = {}, hybrid[kAlphabet] = {}, sampled = 0, raw_bits = 0;
  for (int64_t i = 0; i < count; i += stride, ++sampled) {
    const uint32_t v = static_cast<uint32_t>(symbols[i]);
    ++shifted[(v - low) >> plan.shift];
    if (plan.shift) ++hybrid[HybridToken(Zigzag(v))];
  }
  uint64_t bits = EntropyBits(shifted, kAlphabet, sampled);
  if (plan.shift) {
    const uint64_t hybrid_bits = EntropyBits(hybrid, kAlphabet, sampled);
    for (int s = 0; s < kHybridAlphabet; ++s) raw_bits += hybrid[s] * HybridWidth(s);
    if (hybrid_bits + raw_bits < bits + plan.shift * sampled) {
      plan.kind = kHybrid;
      bits = hybrid_bits;
      plan.alphabet = 1 + std::max(HybridToken(Zigzag(low)), HybridToken(Zigzag(low + range.most)));
    }
  }
  plan.log2_lanes = std::max(Log2Lanes(bits * stride / (8 * kBytesALane)), FewestLog2Lanes(count));
  return plan;
}

// (form, body) of symbols that are modelled.
std::pair<int, std::string> Modelled(const int32_t* symbols, int64_t count, const Range& range,
                                     const uint8_t* contexts) {
  const uint32_t low = static_cast<uint32_t>(range.low);
  const Plan plan = MakePlan(symbols, count, range);
  std::vector<uint8_t> tokens(count);
  uint64_t raw_bits = static_cast<uint64_t>(plan.shift) * count;
  if (plan.kind == kShifted) {
    for (int64_t i = 0; i < count; ++i)
      tokens[i] = static_cast<uint8_t>((static_cast<uint32_t>(symbols[i]) - low) >> plan.shift);
  } else {
    raw_bits = 0;
    for (int64_t i = 0; i < count; ++i) {
      tokens[i] = HybridToken(Zigzag(static_cast<uint32_t>(symbols[i])));
      raw_bits += HybridWidth(tokens[i]);
    }
  }
  std::vector<uint32_t> states;
  std::vector<uint16_t> words;
  Push(tokens, plan.alphabet, contexts, 1 << plan.log2_lanes, &states, &words);

  std::string body = plan.kind == kShifted ? Low(range, plan.shift) : std::string();
  body.reserve(body.size() + 8 + 4 * states.size() + 2 * words.size() + (raw_bits + 7) / 8);
  body.push_back(static_cast<char>(plan.alphabet - 1));
  AppendVarint(static_cast<uint32_t>(words.size()), &body);
  body.append(reinterpret_cast<const char*>(states.data()), 4 * states.size());
  body.append(reinterpret_cast<const char*>(words.data()), 2 * words.size());
  BitWriter raw(raw_bits, &body);
  if (plan.kind == kHybrid) {
    for (int64_t i = 0; i < count; ++i) {
      const int width = HybridWidth(tokens[i]);
      raw.Put(Zigzag(static_cast<uint32_t>(symbols[i])) & ((1u << width) - 1), width);
    }
  } else if (plan.shift) {
    const uint32_t mask = (1u << plan.shift) - 1;
    for (int64_t i = 0; i < count; ++i)
      raw.Put((static_cast<uint32_t>(symbols[i]) - low) & mask, plan.shift);
  }
  raw.Finish();
  return {plan.kind | plan.log2_lanes << 2, std::move(body)};
}

uint32_t Checksum(const uint8_t* data, size_t size, const uint8_t* contexts, int64_t count,
                  uint32_t start) {
  uint32_t crc = Crc32(Crc32(start, data, 1), data + kHead - 1, size - kHead + 1);
  return contexts ? Crc32(crc, contexts, count) : crc;
}

}  // namespace

uint32_t Crc32(uint32_t crc, const uint8_t* data, size_t size) {
  static const CrcTable table = MakeCrcTable();
  crc = ~crc;
  for (; size >= 8; size -= 8, data += 8) {
    uint64_t word;
    std::memcpy(&word, data, 8);
    word ^= crc;
    crc = 0;
    for (int i = 0; i < 8; ++i) crc ^= table[7 - i][word >> 8 * i & 255];
  }
  for (; size; --size, ++data) crc = crc >> 8 ^ table[0][(crc ^ *data) & 255];
  return ~crc;
}

std::string Encode(const int32_t* symbols, const std::vector<uint32_t>& shape,
                   const uint8_t* contexts, const uint8_t* attachment, size_t attachment_size,
                   uint32_t start) {
  int64_t count = 1;
  for (uint32_t extent : shape) count *= extent;
  const Range range = RangeOf(symbols, count);
  const int width = BitLength(range.most);
  int form = kPlain;
  std::string body = Low(range, width);
  const size_t plain_size = body.size() + (static_cast<uint64_t>(width) * count + 7) / 8;
  std::pair<int, std::string> modelled;
  if (count) modelled = Modelled(symbols, count, range, contexts);
  if (count && modelled.second.size() < plain_size) {
    form = modelled.first;
    body = std::move(modelled.second);
  } else {
    BitWriter raw(static_cast<uint64_t>(width) * count, &body);
    if (width)
      for (int64_t i = 0; i < count; ++i)
        raw.Put(static_cast<uint32_t>(symbols[i]) - static_cast<uint32_t>(range.low), width);
    raw.Finish();
  }
  std::string out(kHead, '\0');
  out[0] = static_cast<char>(kMagic | kVersion);
  out[kHead - 1] = static_cast<char>(form | (contexts && count ? 64 : 0));
  AppendVarint(static_cast<uint32_t>(shape.size()), &out);
  for (uint32_t extent : shape) AppendVarint(extent, &out);
  AppendVarint(static_cast<uint32_t>(attachment_size), &out);
  out.append(reinterpret_cast<const char*>(attachment), attachment_size);
  out += body;
  const uint32_t crc = Checksum(reinterpret_cast<const uint8_t*>(out.data()), out.size(),
                                contexts, count, start);
  for (int i = 0; i < 4; ++i) out[1 + i] = static_cast<char>(crc >> 8 * i);
  return out;
}

const char* ReadHead(const uint8_t* data, size_t size, int64_t limit, Head* head) {
  if (size < kHead || (data[0] & 0xF0) != kMagic || !(data[0] & 15)) return "no coded stream";
  if ((data[0] & 15) > kVersion) return "of a newer version";
  const uint8_t form = data[kHead - 1];
  const int log2_lanes = form >> 2 & 15;
  head->kind = form & 3;
  head->has_contexts = form & 64;
  if (head->kind > kHybrid || log2_lanes > 8 || form >> 7) return "of an unknown form";
  head->lanes = 1 << log2_lanes;
  Reader reader(data, size, kHead);
  const uint32_t rank = reader.Varint();
  if (!reader.wrong && rank > 8) return "of more than 8 dimensions";
  head->shape.clear();
  bool empty = false;
  for (uint32_t i = 0; i < rank && !reader.wrong; ++i) {
    head->shape.push_back(reader.Varint());
    empty |= !head->shape.back();
  }
  head->attachment_size = reader.Varint();
  if (!reader.wrong && head->attachment_size > 255) return "with too long an attachment";
  head->attachment = reader.Take(head->attachment_size);
  head->body = reader.place();
  if (reader.wrong) return reader.wrong;
  head->count = empty ? 0 : 1;
  for (uint32_t extent : head->shape)
    head->count = head->count && extent > limit / head->count ? limit + 1 : head->count * extent;
  if (head->kind != kPlain && log2_lanes < FewestLog2Lanes(head->count)) return "of too few lanes";
  return nullptr;
}

const char* Decode(const uint8_t* data, size_t size, const Head& head, const uint8_t* contexts,
                   uint32_t start, int32_t* symbols) {
  if (!head.has_contexts) contexts = nullptr;
  uint32_t crc;
  std::memcpy(&crc, data + 1, 4);
  if (Checksum(data, size, contexts, head.count, start) != crc)
    return "altered, or coded given something else";
  Reader reader(data, size, head.body);
  uint32_t low = 0;
  int shift = 0;
  if (head.kind != kHybrid) {
    low = reader.Varint();
    low = FromZigzag(low);
    shift = reader.Byte();
    if (shift > 32 || (shift > 31 && head.kind != kPlain)) return "of too large a shift";
  }
  std::vector<uint8_t> tokens;
  if (head.kind != kPlain) {
    const int alphabet = reader.Byte() + 1;
    const size_t words = reader.Varint();
    if (head.kind == kHybrid && alphabet > kHybridAlphabet) return "of too large an alphabet";
    const uint8_t* coded = reader.Take(4 * static_cast<size_t>(head.lanes) + 2 * words);
    if (reader.wrong) return reader.wrong;
    tokens.resize(head.count);
    const char* wrong =
        Pop(coded, words, head.count, alphabet, contexts, head.lanes, tokens.data());
    if (wrong) return wrong;
  }
  if (reader.wrong) return reader.wrong;
  const size_t raw_size = reader.rest();
  const uint8_t* raw_data = reader.Take(raw_size);
  uint64_t bits = static_cast<uint64_t>(shift) * head.count;
  if (head.kind == kHybrid)
    for (uint8_t token : tokens) bits += HybridWidth(token);
  BitReader raw(raw_data, raw_size);
  if (const char* wrong = raw.Check(bits)) return wrong;
  if (head.kind == kHybrid) {
    for (int64_t i = 0; i < head.count; ++i) {
      const uint32_t token = tokens[i];
      const int width = HybridWidth(token);
      const uint32_t high = token < kDirect ? token : 4 + token % 4;
      const uint32_t z = high << width | raw.Take(width);
      symbols[i] = static_cast<int32_t>(FromZigzag(z));
    }
  } else if (head.kind == kShifted && !shift) {
    for (int64_t i = 0; i < head.count; ++i) symbols[i] = static_cast<int32_t>(low + tokens[i]);
  } else {
    for (int64_t i = 0; i < head.count; ++i) {
      const uint32_t high = head.kind == kShifted ? uint32_t{tokens[i]} << shift : 0;
      symbols[i] = static_cast<int32_t>(low + (high | raw.Take(shift)));
    }
  }
  return nullptr;
}

}  // namespace coding
}  // namespace omc
