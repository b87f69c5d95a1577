// Comes before the ops' own includes: their view of TensorFlow has to be the worker's.
//
// The offsets are those that the worker's code reads (build id in __init__.py). TensorFlow's
// installed headers alone give 0x30 and 0xb0; the overlay that build.py writes mends that.
#ifndef OMC_KERNELS_WORKER_LAYOUT_H_
#define OMC_KERNELS_WORKER_LAYOUT_H_

#include <cstddef>

#include "tensorflow/core/framework/op_kernel.h"

static_assert(offsetof(tensorflow::OpKernelContext::Params, device) == 0x28,
              "the worker's kernels look for the device elsewhere");
static_assert(offsetof(tensorflow::OpKernelContext::Params, inputs) == 0xa8,
              "the worker's kernels look for the inputs elsewhere");

#endif  // OMC_KERNELS_WORKER_LAYOUT_H_
