// TensorFlow ops over the sweeps: decode and add, each on a buffer or on the
// variable that holds it.
//
// A buffer is what omc/codecs.py describes: planes, then scale and offset under a transform. Where
// there are several formats (client widths), or float32 as it is beside them (`or_raw`, partial
// quantization), its length tells which one it has.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "sweep.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/platform/denormal.h"
#include "tensorflow/core/util/work_sharder.h"

namespace omc {
namespace {

using tensorflow::AllocatorAttributes;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
using tensorflow::shape_inference::InferenceContext;

constexpr int64_t kTrailerBytes = 8;

// Cycles below which a sweep is not shared out: to wake another thread costs thousands. Where many
// steps run side by side, as a simulation's clients do in TFF's worker, no thread waits for work.
#ifdef OMC_SIDE_BY_SIDE
constexpr int64_t kAlone = 1 << 21;
#else
constexpr int64_t kAlone = 0;  // As TensorFlow decides.
#endif

// Shares [0, columns) out among TensorFlow's own threads, which flush subnormals as its kernels do.
template <typename Sweep>
void ForColumns(OpKernelContext* context, int64_t columns, int64_t cycles, const Sweep& sweep) {
  if (columns * cycles < kAlone) {
    tensorflow::port::ScopedFlushDenormal flush;
    sweep(0, columns);
    return;
  }
  const auto& threads = *context->device()->tensorflow_cpu_worker_threads();
  tensorflow::Shard(threads.num_threads, threads.workers, columns, cycles,
                    [&sweep](int64_t begin, int64_t end) {
                      tensorflow::port::ScopedFlushDenormal flush;
                      sweep(begin, end);
                    });
}

// What these kernels share: formats and layout of the codes, from the op's attributes.
class CodecKernel : public OpKernel {
 public:
  explicit CodecKernel(OpKernelConstruction* context) : OpKernel(context), layout_{0, 0} {
    std::vector<int> bits, sign_bits, exponent_bits, feedback_bits;
    OP_REQUIRES_OK(context, context->GetAttr("bits", &bits));
    OP_REQUIRES_OK(context, context->GetAttr("sign_bits", &sign_bits));
    OP_REQUIRES_OK(context, context->GetAttr("exponent_bits", &exponent_bits));
    OP_REQUIRES_OK(context, context->GetAttr("feedback_bits", &feedback_bits));
    const size_t count = bits.size();
    OP_REQUIRES(context,
                count > 0 && sign_bits.size() == count && exponent_bits.size() == count &&
                    feedback_bits.size() == count,
                InvalidArgument("as many of each attribute as there are formats"));
    for (size_t i = 0; i < count; ++i) {
      OP_REQUIRES(context,
                  bits[i] >= 2 && bits[i] <= 32 && exponent_bits[i] >= 0 && exponent_bits[i] <= 8,
                  InvalidArgument("no such format"));
      formats_.emplace_back(bits[i], sign_bits[i], exponent_bits[i], feedback_bits[i]);
    }
  }

 protected:
  void SetCount(int64_t count) { layout_ = {count, (count + 7) / 8}; }
  int64_t PlaneBytes(const Format& format) const { return layout_.columns * format.bits; }

  // Place of a buffer's format among `formats_`, or kRaw; another length is an error.
  tensorflow::Status Find(const Tensor& buffer, bool or_raw, int64_t trailer, size_t* place) const {
    const int64_t size = buffer.NumElements();
    std::string expected;
    for (*place = 0; *place < formats_.size(); ++*place) {
      const int64_t own = PlaneBytes(formats_[*place]) + trailer;
      if (size == own) return tensorflow::OkStatus();
      expected += (*place ? " or " : "") + std::to_string(own);
    }
    *place = kRaw;
    if (or_raw && size == 4 * layout_.count) return tensorflow::OkStatus();
    return InvalidArgument("buffer of ", size, " bytes, not ", expected);
  }

  static constexpr size_t kRaw = ~size_t{0};  // float32 as it is.
  std::vector<Format> formats_;
  Layout layout_;
};

Transform ReadTransform(const uint8_t* trailer) {
  Transform transform;
  std::memcpy(&transform.scale, trailer, 4);
  std::memcpy(&transform.offset, trailer + 4, 4);
  return transform;
}

class DecodeKernel : public CodecKernel {
 public:
  explicit DecodeKernel(OpKernelConstruction* context) : CodecKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("shape", &shape_));
    OP_REQUIRES_OK(context, context->GetAttr("transform", &transform_));
    OP_REQUIRES_OK(context, context->GetAttr("or_raw", &or_raw_));
    SetCount(shape_.num_elements());
  }

  void Compute(OpKernelContext* context) override { Decode(context, context->input(0)); }

 protected:
  void Decode(OpKernelContext* context, const Tensor& buffer) {
    size_t place;
    OP_REQUIRES_OK(context, Find(buffer, or_raw_, transform_ ? kTrailerBytes : 0, &place));
    Tensor* values = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape_, &values));
    if (!layout_.count) return;
    if (place == kRaw) {
      std::memcpy(values->flat<float>().data(), buffer.flat<uint8_t>().data(), 4 * layout_.count);
      return;
    }
    const Format& format = formats_[place];
    const uint8_t* planes = buffer.flat<uint8_t>().data();
    const Transform transform =
        transform_ ? ReadTransform(planes + PlaneBytes(format)) : Transform{1.0f, 0.0f};
    float* out = values->flat<float>().data();
    ForColumns(context, layout_.columns, 16, [&](int64_t begin, int64_t end) {
      BestSweeps().decode(format, layout_, planes, transform_ ? &transform : nullptr, begin, end,
                          out);
    });
  }

 private:
  TensorShape shape_;
  bool transform_, or_raw_;
};

// The same from the variable that holds the buffer, of which no reference is left behind.
class DecodeVariableKernel : public DecodeKernel {
 public:
  using DecodeKernel::DecodeKernel;

  void Compute(OpKernelContext* context) override {
    tensorflow::core::RefCountPtr<tensorflow::Var> variable;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &variable));
    tensorflow::tf_shared_lock lock(*variable->mu());
    OP_REQUIRES(context, variable->is_initialized,
                tensorflow::errors::FailedPrecondition("the codes are not initialised"));
    Decode(context, *variable->tensor());
  }
};

// `values += delta * sign` under the kept transform; see Codec.add and transforms.stretch.
class AddKernel : public CodecKernel {
 public:
  explicit AddKernel(OpKernelConstruction* context) : CodecKernel(context) {
    Read(context, "inverse_limit", &inverse_limit_);
    Read(context, "widest", &widest_);
    Read(context, "headroom", &headroom_);
    Read(context, "inverse_target", &inverse_target_);
    Read(context, "spare_below", &spare_below_);
    OP_REQUIRES_OK(context, context->GetAttr("or_raw", &or_raw_));
  }

 protected:
  // Inputs from `first` on: delta, sign, key [2] (or [0] to round to nearest).
  void Move(OpKernelContext* context, const Tensor& buffer, int first, Tensor* moved) {
    const Tensor& delta = context->input(first);
    const Tensor& sign = context->input(first + 1);
    const Tensor& key = context->input(first + 2);
    SetCount(delta.NumElements());
    size_t place;
    OP_REQUIRES_OK(context, Find(buffer, or_raw_, kTrailerBytes, &place));
    OP_REQUIRES(context, sign.NumElements() == 1 && key.NumElements() % 2 == 0,
                InvalidArgument("sign must be one number, key none or two"));
    if (place == kRaw) {
      AddToFloats(context, buffer.flat<uint8_t>().data(), delta.flat<float>().data(),
                  sign.flat<float>()(0), moved->flat<uint8_t>().data());
      return;
    }
    const int64_t plane_bytes = PlaneBytes(formats_[place]);
    const uint8_t* planes = buffer.flat<uint8_t>().data();
    uint8_t* out = moved->flat<uint8_t>().data();
    Transform transform = ReadTransform(planes + plane_bytes);

    omc::Move move{delta.flat<float>().data(), 0.0f, 1.0f, key.NumElements() > 0, {0, 0}};
    {
      tensorflow::port::ScopedFlushDenormal flush;
      move.factor = sign.flat<float>()(0) / transform.scale;
    }
    if (move.stochastic) {
      move.key[0] = static_cast<uint32_t>(key.flat<int32_t>()(0));
      move.key[1] = static_cast<uint32_t>(key.flat<int32_t>()(1));
    }
    // Most steps suit the range, so round at once and again only where the scale had to change.
    const float largest = Sweep(context, place, planes, move, out);
    const float factor = Stretch(place, largest, transform.scale, move);
    if (factor != 1.0f) {
      move.shrink = 1.0f / factor;
      transform.scale *= factor;
      Sweep(context, place, planes, move, out);
    }
    std::memcpy(out + plane_bytes, &transform.scale, 4);
    std::memcpy(out + plane_bytes + 4, &transform.offset, 4);
  }

 private:
  // A constant of each format.
  void Read(OpKernelConstruction* context, const char* name, std::vector<float>* constants) {
    OP_REQUIRES_OK(context, context->GetAttr(name, constants));
    OP_REQUIRES(context, constants->size() == formats_.size(),
                InvalidArgument("as many of ", name, " as there are formats"));
  }

  // -0 + 0 is +0, and subnormals are flushed: what does not move keeps its bits.
  void AddToFloats(OpKernelContext* context, const uint8_t* values, const float* delta, float sign,
                   uint8_t* out) {
    ForColumns(context, layout_.count, 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float shift = (std::isfinite(delta[i]) ? delta[i] : 0.0f) * sign;
        float value;
        std::memcpy(&value, values + 4 * i, 4);
        const float sum = value + shift;
        std::memcpy(out + 4 * i, shift == 0.0f ? &value : &sum, 4);
      }
    });
  }

  float Sweep(OpKernelContext* context, size_t place, const uint8_t* planes,
              const omc::Move& move, uint8_t* out) {
    std::atomic<float> largest{0.0f};
    ForColumns(context, layout_.columns, 32, [&](int64_t begin, int64_t end) {
      const float mine = BestSweeps().move(formats_[place], layout_, planes, move, begin, end, out);
      float seen = largest.load();
      while (mine > seen && !largest.compare_exchange_weak(seen, mine)) {
      }
    });
    return largest.load();
  }

  float Stretch(size_t place, float largest, float scale, const omc::Move& move) const {
    const float excess = largest * inverse_limit_[place];
    if (excess > 1.0f) {
      const float factor = formats_[place].exponent_bits ? PowerOfTwoAbove(excess)
                                                         : RoundedUp(largest * headroom_[place]);
      return std::max(std::min(factor, widest_[place] / scale), 1.0f);
    }
    if (!(largest < spare_below_[place] && largest > 0.0f && Moves(move))) return 1.0f;
    const float factor = PowerOfTwoAbove(std::max(largest * inverse_target_[place], 0x1p-80f));
    return std::min(std::max(factor, PowerOfTwoAbove(kMinScale / scale)), 1.0f);
  }

  // Whether the update is any but zero. Only asked where the variable is far below its range.
  bool Moves(const omc::Move& move) const {
    tensorflow::port::ScopedFlushDenormal flush;
    for (int64_t i = 0; i < layout_.count; ++i) {
      const float shift = move.delta[i] * move.factor;
      if (std::isfinite(shift) && shift != 0.0f) return true;
    }
    return false;
  }

  static float PowerOfTwoAbove(float size) {
    int32_t bits;
    std::memcpy(&bits, &size, 4);
    bits = (bits & 0x7F800000) + (1 << 23);
    std::memcpy(&size, &bits, 4);
    return size;
  }

  static float RoundedUp(float size) {  // To 8 bits.
    int32_t bits;
    std::memcpy(&bits, &size, 4);
    bits = (bits + 0xFFFF) & -0x10000;
    std::memcpy(&size, &bits, 4);
    return size;
  }

  static constexpr float kMinScale = 0x1p-100f;  // As in transforms.py.
  std::vector<float> inverse_limit_, widest_, headroom_, inverse_target_, spare_below_;
  bool or_raw_;
};

class AddToBufferKernel : public AddKernel {
 public:
  using AddKernel::AddKernel;

  void Compute(OpKernelContext* context) override {
    Tensor* moved = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, context->input(0).shape(), &moved));
    Move(context, context->input(0), 1, moved);
  }
};

// The same on the variable that holds the buffer. Its memory stays where it is: buffers that moved
// at each step would scatter over the allocator's chunks and leave holes between them.
class UpdateVariableKernel : public AddKernel {
 public:
  using AddKernel::AddKernel;

  void Compute(OpKernelContext* context) override {
    tensorflow::core::RefCountPtr<tensorflow::Var> variable;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &variable));
    tensorflow::mutex_lock lock(*variable->mu());
    Tensor* buffer = variable->tensor();
    Tensor moved;
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tensorflow::DT_UINT8, buffer->shape(), &moved));
    Move(context, *buffer, 1, &moved);
    if (!context->status().ok()) return;
    if (buffer->RefCountIsOne()) {
      std::memcpy(buffer->flat<uint8_t>().data(), moved.flat<uint8_t>().data(),
                  moved.NumElements());
    } else {
      *buffer = moved;  // Somebody still reads the old codes.
    }
  }
};

// Sum of gradient * d over a variable's weights; see Codec.scale_gradient.
class ScaleGradientKernel : public CodecKernel {
 public:
  using CodecKernel::CodecKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& buffer = context->input(0);
    const Tensor& gradient = context->input(1);
    SetCount(gradient.NumElements());
    const Format& format = formats_[0];
    const int64_t expected = PlaneBytes(format);
    OP_REQUIRES(context, buffer.NumElements() >= expected,
                InvalidArgument("buffer of ", buffer.NumElements(), " bytes, not ", expected));
    Tensor* result = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({}), &result));
    const uint8_t* planes = buffer.flat<uint8_t>().data();
    const float* values = gradient.flat<float>().data();
    std::vector<double> sums((layout_.columns + kBlock - 1) / kBlock);
    ForColumns(context, sums.size(), 32 * kBlock, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        sums[block] = BestSweeps().scale_gradient(
            format, layout_, planes, values, block * kBlock,
            std::min((block + 1) * kBlock, layout_.columns));
    });
    double sum = 0.0;
    for (double part : sums) sum += part;
    result->scalar<float>()() = static_cast<float>(sum);
  }
};

// Buffer of a wider codec with the same values; see omc.nested.widen_buffer. Where it may be of
// several widths, its length tells which one.
class WidenBufferKernel : public OpKernel {
 public:
  explicit WidenBufferKernel(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("count", &layout_.count));
    OP_REQUIRES_OK(context, context->GetAttr("bits", &bits_));
    OP_REQUIRES_OK(context, context->GetAttr("new_bits", &new_bits_));
    OP_REQUIRES_OK(context, context->GetAttr("transform", &transform_));
    OP_REQUIRES_OK(context, context->GetAttr("factor", &factor_));
    OP_REQUIRES(context, layout_.count >= 0 && factor_.size() == bits_.size() && new_bits_ <= 32,
                InvalidArgument("no such widths"));
    for (int bits : bits_)
      OP_REQUIRES(context, bits >= 2 && bits <= new_bits_, InvalidArgument("no such widths"));
    layout_.columns = (layout_.count + 7) / 8;
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& buffer = context->input(0);
    const int64_t size = buffer.NumElements(), trailer = transform_ ? kTrailerBytes : 0;
    size_t place = 0;
    while (place < bits_.size() && size != layout_.columns * bits_[place] + trailer) ++place;
    OP_REQUIRES(context, place < bits_.size(),
                InvalidArgument("buffer of ", size, " bytes, of none of the widths"));
    const int bits = bits_[place];
    const int64_t planes = layout_.columns * bits, new_planes = layout_.columns * new_bits_;
    Tensor* widened = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({new_planes + trailer}),
                                                     &widened));
    const uint8_t* from = buffer.flat<uint8_t>().data();
    uint8_t* to = widened->flat<uint8_t>().data();
    if (bits == new_bits_) {
      std::memcpy(to, from, planes);
    } else {
      ForColumns(context, layout_.columns, 16, [&](int64_t begin, int64_t end) {
        BestSweeps().widen(layout_, from, bits, new_bits_, begin, end, to);
      });
    }
    if (!transform_) return;
    Transform transform = ReadTransform(from + planes);
    if (factor_[place] != 1.0f) {
      tensorflow::port::ScopedFlushDenormal flush;
      transform.scale *= factor_[place];
    }
    std::memcpy(to + new_planes, &transform.scale, 4);
    std::memcpy(to + new_planes + 4, &transform.offset, 4);
  }

 private:
  Layout layout_{0, 0};
  std::vector<int> bits_;
  int new_bits_;
  bool transform_;
  std::vector<float> factor_;
};

Quantizer ReadQuantizer(OpKernelContext* context, int first, int bits) {
  const float scale = context->input(first).flat<float>()(0);
  return {scale, 1.0f / scale, context->input(first + 1).flat<float>()(0),
          static_cast<float>((1 << bits) - 1)};
}

// Activations at a few bits; see omc/keras/quantizers.py.
class QuantizeKernel : public OpKernel {
 public:
  explicit QuantizeKernel(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("bits", &bits_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Quantizer quantizer = ReadQuantizer(context, 1, bits_);
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    const float* in = x.flat<float>().data();
    float* out = y->flat<float>().data();
    ForColumns(context, x.NumElements(), 4, [&](int64_t begin, int64_t end) {
      BestQuantizerSweeps().forward(quantizer, in + begin, end - begin, out + begin);
    });
  }

 private:
  int bits_;
};

class QuantizeGradientKernel : public OpKernel {
 public:
  explicit QuantizeGradientKernel(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("bits", &bits_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& dy = context->input(1);
    OP_REQUIRES(context, x.shape() == dy.shape(),
                InvalidArgument("x has the shape ", x.shape().DebugString(), ", its gradient ",
                                dy.shape().DebugString()));
    const Quantizer quantizer = ReadQuantizer(context, 2, bits_);
    Tensor *dx = nullptr, *scale = nullptr, *offset = nullptr;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({1}, 0, x.shape(), &dx));
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({}), &scale));
    OP_REQUIRES_OK(context, context->allocate_output(2, TensorShape({}), &offset));
    const float* values = x.flat<float>().data();
    const float* upstream = dy.flat<float>().data();
    float* out = dx->flat<float>().data();
    const int64_t count = x.NumElements();
    std::vector<double> sums(2 * ((count + kElements - 1) / kElements));
    ForColumns(context, sums.size() / 2, 8 * kElements, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * kElements;
        BestQuantizerSweeps().backward(quantizer, values + first, upstream + first,
                                       std::min(kElements, count - first), out + first,
                                       &sums[2 * block]);
      }
    });
    double totals[2] = {0.0, 0.0};
    for (size_t i = 0; i < sums.size(); ++i) totals[i % 2] += sums[i];
    scale->scalar<float>()() = static_cast<float>(totals[0]);
    offset->scalar<float>()() = static_cast<float>(totals[1]);
  }

 private:
  static constexpr int64_t kElements = 4096;  // Of a block, whose sums no sharing out changes.
  int bits_;
};

tensorflow::Status DecodedShape(InferenceContext* context) {
  tensorflow::PartialTensorShape shape;
  TF_RETURN_IF_ERROR(context->GetAttr("shape", &shape));
  tensorflow::shape_inference::ShapeHandle handle;
  TF_RETURN_IF_ERROR(context->MakeShapeFromPartialTensorShape(shape, &handle));
  context->set_output(0, handle);
  return tensorflow::OkStatus();
}

tensorflow::Status BufferShape(InferenceContext* context) {
  context->set_output(0, context->input(0));
  return tensorflow::OkStatus();
}

}  // namespace

#define OMC_FORMATS                     \
  Attr("bits: list(int)")               \
      .Attr("sign_bits: list(int)")     \
      .Attr("exponent_bits: list(int)") \
      .Attr("feedback_bits: list(int)")

REGISTER_OP("Omc>Decode")
    .Input("buffer: uint8")
    .Output("values: float")
    .OMC_FORMATS
    .Attr("shape: shape")
    .Attr("transform: bool")
    .Attr("or_raw: bool = false")
    .SetShapeFn(DecodedShape);
REGISTER_KERNEL_BUILDER(Name("Omc>Decode").Device(tensorflow::DEVICE_CPU), DecodeKernel);

REGISTER_OP("Omc>DecodeVariable")
    .Input("variable: resource")
    .Output("values: float")
    .OMC_FORMATS
    .Attr("shape: shape")
    .Attr("transform: bool")
    .Attr("or_raw: bool = false")
    .SetIsStateful()
    .SetShapeFn(DecodedShape);
REGISTER_KERNEL_BUILDER(Name("Omc>DecodeVariable").Device(tensorflow::DEVICE_CPU),
                        DecodeVariableKernel);

#define OMC_ADD_ATTRS                      \
  OMC_FORMATS                              \
      .Attr("inverse_limit: list(float)")  \
      .Attr("widest: list(float)")         \
      .Attr("headroom: list(float)")       \
      .Attr("inverse_target: list(float)") \
      .Attr("spare_below: list(float)")    \
      .Attr("or_raw: bool = false")

REGISTER_OP("Omc>Add")
    .Input("buffer: uint8")
    .Input("delta: float")
    .Input("sign: float")
    .Input("key: int32")
    .Output("moved: uint8")
    .OMC_ADD_ATTRS
    .SetShapeFn(BufferShape);
REGISTER_KERNEL_BUILDER(Name("Omc>Add").Device(tensorflow::DEVICE_CPU), AddToBufferKernel);

// Not called "in place": in a graph with such an op TensorFlow's optimizer copies every tensor that
// it would else hand on (constant folding's Snapshot), activations of a megabyte among them.
REGISTER_OP("Omc>UpdateVariable")
    .Input("variable: resource")
    .Input("delta: float")
    .Input("sign: float")
    .Input("key: int32")
    .OMC_ADD_ATTRS
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::NoOutputs);
REGISTER_KERNEL_BUILDER(Name("Omc>UpdateVariable").Device(tensorflow::DEVICE_CPU), UpdateVariableKernel);

REGISTER_OP("Omc>ScaleGradient")
    .Input("buffer: uint8")
    .Input("gradient: float")
    .Output("sum: float")
    .OMC_FORMATS
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);
REGISTER_KERNEL_BUILDER(Name("Omc>ScaleGradient").Device(tensorflow::DEVICE_CPU),
                        ScaleGradientKernel);

REGISTER_OP("Omc>WidenBuffer")
    .Input("buffer: uint8")
    .Output("widened: uint8")
    .Attr("count: int")
    .Attr("bits: list(int)")
    .Attr("new_bits: int")
    .Attr("transform: bool")
    .Attr("factor: list(float)")
    .SetShapeFn([](InferenceContext* context) {
      context->set_output(0, context->UnknownShapeOfRank(1));
      return tensorflow::OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("Omc>WidenBuffer").Device(tensorflow::DEVICE_CPU), WidenBufferKernel);

REGISTER_OP("Omc>Quantize")
    .Input("x: float")
    .Input("scale: float")
    .Input("offset: float")
    .Output("y: float")
    .Attr("bits: int")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape);
REGISTER_KERNEL_BUILDER(Name("Omc>Quantize").Device(tensorflow::DEVICE_CPU), QuantizeKernel);

REGISTER_OP("Omc>QuantizeGradient")
    .Input("x: float")
    .Input("dy: float")
    .Input("scale: float")
    .Input("offset: float")
    .Output("dx: float")
    .Output("dscale: float")
    .Output("doffset: float")
    .Attr("bits: int")
    .SetShapeFn([](InferenceContext* context) {
      context->set_output(0, context->input(0));
      context->set_output(1, context->Scalar());
      context->set_output(2, context->Scalar());
      return tensorflow::OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("Omc>QuantizeGradient").Device(tensorflow::DEVICE_CPU),
                        QuantizeGradientKernel);

}  // namespace omc
