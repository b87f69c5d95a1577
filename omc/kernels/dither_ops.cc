// TensorFlow ops over the sweeps of quantization under a dither; see omc/coding/dither.py.
#include <algorithm>
#include <vector>

#include "sweep.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/platform/denormal.h"
#include "tensorflow/core/util/work_sharder.h"

namespace omc {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
using tensorflow::shape_inference::InferenceContext;

constexpr int64_t kElements = 4096;  // Of a block, whose sum no sharing out changes.

// Shares blocks of [0, count) out among TensorFlow's threads: function(block, first, n).
template <typename Function>
void ForBlocks(OpKernelContext* context, int64_t count, const Function& function) {
  const auto& threads = *context->device()->tensorflow_cpu_worker_threads();
  tensorflow::Shard(threads.num_threads, threads.workers, (count + kElements - 1) / kElements,
                    4 * kElements, [&](int64_t begin, int64_t end) {
                      tensorflow::port::ScopedFlushDenormal flush;
                      for (int64_t block = begin; block < end; ++block)
                        function(block, block * kElements,
                                 std::min(kElements, count - block * kElements));
                    });
}

tensorflow::Status ReadDither(OpKernelContext* context, int seed, int step, Dither* dither) {
  const Tensor& words = context->input(seed);
  if (words.NumElements() != 2) return InvalidArgument("a seed has 2 words");
  for (int i = 0; i < 2; ++i) dither->key[i] = static_cast<uint32_t>(words.flat<int32_t>()(i));
  dither->step = step < 0 ? 0.0f : context->input(step).flat<float>()(0);
  return tensorflow::OkStatus();
}

class DitherQuantizeKernel : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    Dither dither;
    OP_REQUIRES_OK(context, ReadDither(context, 1, 2, &dither));
    Tensor *symbols = nullptr, *contexts = nullptr, *error = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &symbols));
    OP_REQUIRES_OK(context, context->allocate_output(1, x.shape(), &contexts));
    OP_REQUIRES_OK(context, context->allocate_output(2, TensorShape({}), &error));
    const float* values = x.flat<float>().data();
    int32_t* codes = symbols->flat<int32_t>().data();
    uint8_t* classes = contexts->flat<uint8_t>().data();
    std::vector<double> sums((x.NumElements() + kElements - 1) / kElements);
    ForBlocks(context, x.NumElements(), [&](int64_t block, int64_t first, int64_t n) {
      sums[block] = BestDitherSweeps().quantize(dither, values + first, first, n, codes + first,
                                                classes + first);
    });
    double sum = 0.0;
    for (double part : sums) sum += part;
    error->scalar<float>()() = static_cast<float>(sum);
  }
};

class DitherContextsKernel : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    Dither dither;
    OP_REQUIRES_OK(context, ReadDither(context, 0, -1, &dither));
    const int64_t count = context->input(1).flat<int32_t>()(0);
    OP_REQUIRES(context, count >= 0, InvalidArgument("a count below 0"));
    Tensor* contexts = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({count}), &contexts));
    uint8_t* classes = contexts->flat<uint8_t>().data();
    ForBlocks(context, count, [&](int64_t, int64_t first, int64_t n) {
      BestDitherSweeps().contexts(dither, first, n, classes + first);
    });
  }
};

class DitherReadKernel : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& symbols = context->input(0);
    Dither dither;
    OP_REQUIRES_OK(context, ReadDither(context, 1, 2, &dither));
    Tensor* values = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, symbols.shape(), &values));
    const int32_t* codes = symbols.flat<int32_t>().data();
    float* out = values->flat<float>().data();
    ForBlocks(context, symbols.NumElements(), [&](int64_t, int64_t first, int64_t n) {
      BestDitherSweeps().read(dither, codes + first, first, n, out + first);
    });
  }
};

}  // namespace

REGISTER_OP("Omc>DitherQuantize")
    .Input("x: float")
    .Input("seed: int32")
    .Input("step: float")
    .Output("symbols: int32")
    .Output("contexts: uint8")
    .Output("error: float")
    .SetShapeFn([](InferenceContext* context) {
      context->set_output(0, context->input(0));
      context->set_output(1, context->input(0));
      context->set_output(2, context->Scalar());
      return tensorflow::OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("Omc>DitherQuantize").Device(tensorflow::DEVICE_CPU),
                        DitherQuantizeKernel);

REGISTER_OP("Omc>DitherContexts")
    .Input("seed: int32")
    .Input("count: int32")
    .Output("contexts: uint8")
    .SetShapeFn([](InferenceContext* context) {
      context->set_output(0, context->Vector(InferenceContext::kUnknownDim));
      return tensorflow::OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("Omc>DitherContexts").Device(tensorflow::DEVICE_CPU),
                        DitherContextsKernel);

REGISTER_OP("Omc>DitherRead")
    .Input("symbols: int32")
    .Input("seed: int32")
    .Input("step: float")
    .Output("values: float")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape);
REGISTER_KERNEL_BUILDER(Name("Omc>DitherRead").Device(tensorflow::DEVICE_CPU), DitherReadKernel);

}  // namespace omc
