// TensorFlow ops over the entropy coder: arrays of symbols, and whole buffers of codes.
//
// A buffer is what omc/codecs.py describes; how its codes become symbols, omc/coding/buffers.py.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "coder.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace omc {
namespace {

using coding::Head;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::PartialTensorShape;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::DataLoss;
using tensorflow::errors::InvalidArgument;
using tensorflow::shape_inference::InferenceContext;

constexpr int kTrailerBytes = 8;
constexpr int64_t kTile = 4096;

using Ordinals = std::unique_ptr<int32_t[]>;

tensorflow::Status Wrong(const char* what) {
  return DataLoss("the coded stream is ", what);
}

const uint8_t* Bytes(const Tensor& tensor) { return tensor.flat<uint8_t>().data(); }

tensorflow::Status Put(OpKernelContext* context, const std::string& coded) {
  Tensor* data = nullptr;
  TF_RETURN_IF_ERROR(context->allocate_output(
      0, TensorShape({static_cast<int64_t>(coded.size())}), &data));
  std::memcpy(data->flat<uint8_t>().data(), coded.data(), coded.size());
  return tensorflow::OkStatus();
}

class EncodeCodesKernel : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& symbols = context->input(0);
    const Tensor& given = context->input(1);
    const int64_t count = symbols.NumElements();
    OP_REQUIRES(context, !given.NumElements() || given.NumElements() == count,
                InvalidArgument(given.NumElements(), " contexts for ", count, " symbols"));
    OP_REQUIRES(context, symbols.dims() <= 8, InvalidArgument("more than 8 dimensions"));
    std::vector<uint32_t> shape;
    for (int i = 0; i < symbols.dims(); ++i) {
      OP_REQUIRES(context, symbols.dim_size(i) >> 32 == 0, InvalidArgument("too many symbols"));
      shape.push_back(static_cast<uint32_t>(symbols.dim_size(i)));
    }
    OP_REQUIRES_OK(context,
                   Put(context, coding::Encode(symbols.flat<int32_t>().data(), shape,
                                               given.NumElements() ? Bytes(given) : nullptr,
                                               nullptr, 0, 0)));
  }
};

// Decodes symbols; where `damaged_is_error` is false, a second output says whether the data were
// right, and what is damaged gives zeros.
template <bool damaged_is_error>
class DecodeCodesKernel : public OpKernel {
 public:
  explicit DecodeCodesKernel(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("shape", &shape_));
    OP_REQUIRES_OK(context, context->GetAttr("limit", &limit_));
  }

  void Compute(OpKernelContext* context) override {
    if (damaged_is_error) {
      OP_REQUIRES_OK(context, Decode(context, nullptr));
      return;
    }
    TensorShape shape;
    for (int64_t extent : shape_.dim_sizes())
      OP_REQUIRES_OK(context, shape.AddDimWithStatus(extent));
    Tensor *symbols = nullptr, *right = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &symbols));
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({}), &right));
    right->scalar<bool>()() = Decode(context, symbols).ok();
    if (!right->scalar<bool>()()) symbols->flat<int32_t>().setZero();
  }

 private:
  // Decodes into `symbols`, or into an output that it allocates once the data say what they are.
  tensorflow::Status Decode(OpKernelContext* context, Tensor* symbols) const {
    const Tensor& data = context->input(0);
    const Tensor& given = context->input(1);
    Head head;
    const char* wrong = coding::ReadHead(Bytes(data), data.NumElements(), limit_, &head);
    if (wrong) return Wrong(wrong);
    if (head.count > limit_) return Wrong("of more symbols than the limit");
    if (given.NumElements() != (head.has_contexts ? head.count : 0))
      return InvalidArgument(given.NumElements(), " contexts for ", head.count, " symbols");
    TensorShape shape;
    for (uint32_t extent : head.shape) TF_RETURN_IF_ERROR(shape.AddDimWithStatus(extent));
    if (!shape_.IsCompatibleWith(shape)) return Wrong("of another shape");
    if (!symbols) TF_RETURN_IF_ERROR(context->allocate_output(0, shape, &symbols));
    wrong = coding::Decode(Bytes(data), data.NumElements(), head, Bytes(given), 0,
                           symbols->flat<int32_t>().data());
    return wrong ? Wrong(wrong) : tensorflow::OkStatus();
  }

  PartialTensorShape shape_;
  int64_t limit_;
};

// What the two ops on buffers share: codes of a buffer <-> their ordinals, in the values' order.
class BufferKernel : public OpKernel {
 public:
  explicit BufferKernel(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("count", &count_));
    OP_REQUIRES_OK(context, context->GetAttr("bits", &bits_));
    OP_REQUIRES_OK(context, context->GetAttr("sign_bits", &sign_bits_));
    OP_REQUIRES_OK(context, context->GetAttr("exponent_bits", &exponent_bits_));
    OP_REQUIRES_OK(context, context->GetAttr("planes", &planes_));
    OP_REQUIRES_OK(context, context->GetAttr("transform", &transform_));
    const int most = exponent_bits_ ? sign_bits_ + exponent_bits_ : 1;
    OP_REQUIRES(context,
                count_ >= 0 && bits_ >= 1 && bits_ <= 32 && sign_bits_ >= 0 && sign_bits_ <= 1 &&
                    exponent_bits_ >= 0 && most <= bits_ && (planes_ || bits_ == 32),
                InvalidArgument("no such format"));
    columns_ = (count_ + 7) / 8;
    symbols_ = planes_ ? 8 * columns_ : count_;
    code_bytes_ = planes_ ? columns_ * bits_ : 4 * count_;
    OP_REQUIRES(context, symbols_ >> 32 == 0, InvalidArgument("too many weights"));
  }

 protected:
  int64_t nbytes() const { return code_bytes_ + (transform_ ? kTrailerBytes : 0); }

  tensorflow::Status Check(const Tensor& buffer) const {
    if (buffer.NumElements() == nbytes()) return tensorflow::OkStatus();
    return InvalidArgument("a buffer of ", buffer.NumElements(), " bytes, not ", nbytes());
  }

  // Ordinals of a buffer's codes: integers that are in the order of the values.
  Ordinals OrdinalsOf(const uint8_t* buffer) const {
    Ordinals ordinals(new int32_t[symbols_]);
    ForTiles([&](int row, int64_t begin, int64_t n) {
      uint32_t* codes = reinterpret_cast<uint32_t*>(ordinals.get()) + row * columns_ + begin;
      if (planes_) {
        Unpack(buffer, row, begin, n, codes);
      } else {
        std::memcpy(codes, buffer + 4 * begin, 4 * n);
      }
      if (!exponent_bits_) {
        const uint32_t half = 1u << (bits_ - 1);
        for (int64_t i = 0; i < n; ++i) codes[i] = (codes[i] ^ half) - half;
      } else if (sign_bits_) {
        const int fields = bits_ - 1;
        const uint32_t magnitude = (1u << fields) - 1;
        for (int64_t i = 0; i < n; ++i)
          codes[i] = (codes[i] & magnitude) ^ (0u - (codes[i] >> fields));
      }
    });
    return ordinals;
  }

  // The inverse, in place in `ordinals`; false where one stands for no code.
  bool ToBuffer(int32_t* ordinals, uint8_t* buffer) const {
    const bool is_signed = !exponent_bits_ || sign_bits_;
    const uint32_t sign = 1u << (bits_ - 1), all = sign - 1 + sign;
    // What is outside of the range has a bit above it, once moved to begin at 0.
    const uint32_t shift = is_signed ? sign : 0;
    uint32_t outside = 0;
    if (planes_) std::fill(buffer, buffer + code_bytes_, 0);
    ForTiles([&](int row, int64_t begin, int64_t n) {
      uint32_t* codes = reinterpret_cast<uint32_t*>(ordinals) + row * columns_ + begin;
      for (int64_t i = 0; i < n; ++i) outside |= (codes[i] + shift) & ~all;
      if (!exponent_bits_) {
        for (int64_t i = 0; i < n; ++i) codes[i] &= all;
      } else if (sign_bits_) {
        for (int64_t i = 0; i < n; ++i) {
          const uint32_t negative = 0u - (codes[i] >> 31);
          codes[i] = (codes[i] ^ negative) | (sign & negative);
        }
      }
      if (planes_) {
        Pack(codes, row, begin, n, buffer);
      } else {
        std::memcpy(buffer + 4 * begin, codes, 4 * n);
      }
    });
    return !outside;
  }

  // A difference with a sign by which away from zero is up, and back.
  uint32_t Turned(uint32_t moved, int32_t given) const {
    const uint32_t down = exponent_bits_ ? static_cast<uint32_t>(given >> 31) : 0;
    return (moved ^ down) - down;
  }

  // Contexts of symbols that are coded given a buffer with these ordinals.
  std::vector<uint8_t> Contexts(const int32_t* ordinals) const {
    std::vector<uint8_t> contexts(symbols_);
    if (!exponent_bits_) {
      const int32_t half = 1 << (bits_ - 1);
      const int shift = std::max(bits_ - 4, 0);
      for (int64_t i = 0; i < symbols_; ++i)
        contexts[i] = static_cast<uint8_t>((ordinals[i] + half) >> shift);
      return contexts;
    }
    const int mantissa = bits_ - sign_bits_ - exponent_bits_;
    int32_t most = 0;
    for (int64_t i = 0; i < symbols_; ++i)
      most = std::max(most, (ordinals[i] < 0 ? ~ordinals[i] : ordinals[i]) >> mantissa);
    for (int64_t i = 0; i < symbols_; ++i) {
      const int32_t v = ordinals[i], below = most - ((v < 0 ? ~v : v) >> mantissa);
      contexts[i] = static_cast<uint8_t>(std::min(below, 15));
    }
    return contexts;
  }

  int64_t symbols_, code_bytes_;
  bool transform_;

 private:
  // Calls `tile(row, first column, columns)` for pieces that stay in the nearest cache.
  template <typename Tile>
  void ForTiles(const Tile& tile) const {
    const int64_t columns = planes_ ? columns_ : count_;
    for (int row = 0; row < (planes_ ? 8 : 1); ++row)
      for (int64_t begin = 0; begin < columns; begin += kTile)
        tile(row, begin, std::min(kTile, columns - begin));
  }

  // Calls `plane(width, shift in the code, shift in the byte, first byte)` for each plane.
  template <typename Plane>
  void ForPlanes(int row, int64_t begin, const Plane& plane) const {
    int64_t start = 0;
    for (int rest = bits_; rest > 0;) {
      const int width = rest >= 8 ? 8 : rest >= 4 ? 4 : rest >= 2 ? 2 : 1;
      rest -= width;
      plane(width, rest, row / width * width, start + row % width * columns_ + begin);
      start += width * columns_;
    }
  }

  void Unpack(const uint8_t* planes, int row, int64_t begin, int64_t n, uint32_t* codes) const {
    std::fill(codes, codes + n, 0);
    ForPlanes(row, begin, [&](int width, int rank, int shift, int64_t from) {
      const uint8_t* octets = planes + from;
      const uint32_t mask = (1u << width) - 1;
      for (int64_t c = 0; c < n; ++c) codes[c] |= (octets[c] >> shift & mask) << rank;
    });
  }

  void Pack(const uint32_t* codes, int row, int64_t begin, int64_t n, uint8_t* planes) const {
    ForPlanes(row, begin, [&](int width, int rank, int shift, int64_t to) {
      uint8_t* octets = planes + to;
      const uint32_t mask = (1u << width) - 1;
      for (int64_t c = 0; c < n; ++c)
        octets[c] |= static_cast<uint8_t>((codes[c] >> rank & mask) << shift);
    });
  }

  int64_t count_, columns_;
  int bits_, sign_bits_, exponent_bits_;
  bool planes_;
};

class EncodeBufferKernel : public BufferKernel {
 public:
  using BufferKernel::BufferKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& buffer = context->input(0);
    const Tensor& given = context->input(1);
    OP_REQUIRES_OK(context, Check(buffer));
    const Ordinals symbols = OrdinalsOf(Bytes(buffer));
    std::vector<uint8_t> contexts;
    const uint8_t* trailer = Bytes(buffer) + code_bytes_;
    size_t trailer_bytes = transform_ ? kTrailerBytes : 0;
    uint32_t start = 0;
    if (given.NumElements()) {
      OP_REQUIRES_OK(context, Check(given));
      const Ordinals predicted = OrdinalsOf(Bytes(given));
      contexts = Contexts(predicted.get());
      for (int64_t i = 0; i < symbols_; ++i)
        symbols[i] = static_cast<int32_t>(
            Turned(static_cast<uint32_t>(symbols[i]) - static_cast<uint32_t>(predicted[i]),
                   predicted[i]));
      start = coding::Crc32(0, Bytes(given), given.NumElements());
      if (trailer_bytes && !std::memcmp(trailer, Bytes(given) + code_bytes_, trailer_bytes))
        trailer_bytes = 0;
    }
    OP_REQUIRES_OK(context,
                   Put(context, coding::Encode(symbols.get(), {static_cast<uint32_t>(symbols_)},
                                               contexts.empty() ? nullptr : contexts.data(),
                                               trailer, trailer_bytes, start)));
  }
};

class DecodeBufferKernel : public BufferKernel {
 public:
  using BufferKernel::BufferKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& data = context->input(0);
    const Tensor& given = context->input(1);
    const bool has_given = given.NumElements() > 0;
    Ordinals predicted;
    std::vector<uint8_t> contexts;
    uint32_t start = 0;
    if (has_given) {
      OP_REQUIRES_OK(context, Check(given));
      predicted = OrdinalsOf(Bytes(given));
      contexts = Contexts(predicted.get());
      start = coding::Crc32(0, Bytes(given), given.NumElements());
    }
    Head head;
    const char* wrong = coding::ReadHead(Bytes(data), data.NumElements(), symbols_, &head);
    OP_REQUIRES(context, !wrong, Wrong(wrong));
    OP_REQUIRES(context, head.shape.size() == 1 && head.shape[0] == symbols_,
                Wrong("of another variable"));
    OP_REQUIRES(context, head.has_contexts == has_given || !symbols_,
                Wrong("coded given another buffer"));
    const size_t trailer_bytes = transform_ ? kTrailerBytes : 0;
    OP_REQUIRES(context,
                head.attachment_size == trailer_bytes || (has_given && !head.attachment_size),
                Wrong("without its transform"));
    const Ordinals symbols(new int32_t[symbols_]);
    wrong = coding::Decode(Bytes(data), data.NumElements(), head, contexts.data(), start,
                           symbols.get());
    OP_REQUIRES(context, !wrong, Wrong(wrong));
    for (int64_t i = 0; has_given && i < symbols_; ++i)
      symbols[i] = static_cast<int32_t>(static_cast<uint32_t>(predicted[i]) +
                                        Turned(static_cast<uint32_t>(symbols[i]), predicted[i]));
    Tensor* buffer = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({nbytes()}), &buffer));
    uint8_t* out = buffer->flat<uint8_t>().data();
    OP_REQUIRES(context, ToBuffer(symbols.get(), out), Wrong("of codes that the format has not"));
    if (trailer_bytes)
      std::memcpy(out + code_bytes_,
                  head.attachment_size ? head.attachment : Bytes(given) + code_bytes_,
                  trailer_bytes);
  }
};

tensorflow::Status UnknownLength(InferenceContext* context) {
  context->set_output(0, context->Vector(InferenceContext::kUnknownDim));
  return tensorflow::OkStatus();
}

tensorflow::Status SymbolsShape(InferenceContext* context) {
  PartialTensorShape shape;
  TF_RETURN_IF_ERROR(context->GetAttr("shape", &shape));
  tensorflow::shape_inference::ShapeHandle handle;
  TF_RETURN_IF_ERROR(context->MakeShapeFromPartialTensorShape(shape, &handle));
  context->set_output(0, handle);
  return tensorflow::OkStatus();
}

}  // namespace

REGISTER_OP("Omc>EncodeCodes")
    .Input("symbols: int32")
    .Input("context: uint8")
    .Output("data: uint8")
    .SetShapeFn(UnknownLength);
REGISTER_KERNEL_BUILDER(Name("Omc>EncodeCodes").Device(tensorflow::DEVICE_CPU), EncodeCodesKernel);

REGISTER_OP("Omc>DecodeCodes")
    .Input("data: uint8")
    .Input("context: uint8")
    .Output("symbols: int32")
    .Attr("shape: shape")
    .Attr("limit: int")
    .SetShapeFn(SymbolsShape);
REGISTER_KERNEL_BUILDER(Name("Omc>DecodeCodes").Device(tensorflow::DEVICE_CPU),
                        DecodeCodesKernel<true>);

REGISTER_OP("Omc>TryDecodeCodes")
    .Input("data: uint8")
    .Input("context: uint8")
    .Output("symbols: int32")
    .Output("right: bool")
    .Attr("shape: shape")
    .Attr("limit: int")
    .SetShapeFn([](InferenceContext* context) {
      context->set_output(1, context->Scalar());
      return SymbolsShape(context);
    });
REGISTER_KERNEL_BUILDER(Name("Omc>TryDecodeCodes").Device(tensorflow::DEVICE_CPU),
                        DecodeCodesKernel<false>);

#define OMC_BUFFER_ATTRS          \
  Attr("count: int")              \
      .Attr("bits: int")          \
      .Attr("sign_bits: int")     \
      .Attr("exponent_bits: int") \
      .Attr("planes: bool")       \
      .Attr("transform: bool")

REGISTER_OP("Omc>EncodeBuffer")
    .Input("buffer: uint8")
    .Input("given: uint8")
    .Output("data: uint8")
    .OMC_BUFFER_ATTRS
    .SetShapeFn(UnknownLength);
REGISTER_KERNEL_BUILDER(Name("Omc>EncodeBuffer").Device(tensorflow::DEVICE_CPU),
                        EncodeBufferKernel);

REGISTER_OP("Omc>DecodeBuffer")
    .Input("data: uint8")
    .Input("given: uint8")
    .Output("buffer: uint8")
    .OMC_BUFFER_ATTRS
    .SetShapeFn(UnknownLength);
REGISTER_KERNEL_BUILDER(Name("Omc>DecodeBuffer").Device(tensorflow::DEVICE_CPU),
                        DecodeBufferKernel);

}  // namespace omc
