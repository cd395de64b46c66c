// Our ops as IPluginV3 in one library without Python: for trtexec, Triton and ONNX Runtime's TensorRT provider.
//
// One class serves every op. What differs between ops, their shapes and launches, is generated from the same records as
// the Python plugins' (geometry.h, kernel_table.h; see cpp_sources.py).
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>

#include "expression.h"
#include "geometry.h"
#include "kernel_table.h"

namespace {

using namespace nvinfer1;

constexpr const char *NAMESPACE = "skipvit", *VERSION = "1";
ILoggerFinder* logger_finder = nullptr;

int32_t fail(const char* op, const char* sentence) {
  char text[256];
  std::snprintf(text, sizeof text, "%s::%s: %s", NAMESPACE, op, sentence);
  ILogger* logger = logger_finder ? logger_finder->findLogger() : nullptr;
  if (logger)
    logger->log(ILogger::Severity::kERROR, text);
  else
    std::fprintf(stderr, "%s\n", text);
  return 1;
}

// Place among the scalars of kernel_table.h, or -1.
int scalar_of(DataType type) {
  return type == DataType::kFLOAT ? 0 : type == DataType::kHALF ? 1 : type == DataType::kBF16 ? 2 : -1;
}

class Plugin final : public IPluginV3, public IPluginV3OneCore, public IPluginV3OneBuild, public IPluginV3OneRuntime {
 public:
  Plugin(int op, const int64_t* attributes) : op_(op) {
    for (int i = 0; i < OPS[op].attributes; ++i) {
      attributes_[i] = attributes[i];
      written_[i] = int32_t(attributes[i]);
      fields_[i] = PluginField(OPS[op].attribute_names[i], &written_[i], PluginFieldType::kINT32, 1);
    }
    collection_ = {OPS[op].attributes, fields_};
  }

  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
      case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
      case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  IPluginV3* clone() noexcept override { return new Plugin(op_, attributes_); }
  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }
  const char* getPluginName() const noexcept override { return OPS[op_].name; }
  const char* getPluginVersion() const noexcept override { return VERSION; }
  const char* getPluginNamespace() const noexcept override { return NAMESPACE; }
  int32_t getNbOutputs() const noexcept override { return 1; }
  const PluginFieldCollection* getFieldsToSerialize() noexcept override { return &collection_; }

  int32_t getOutputDataTypes(DataType* out, int32_t, const DataType* in, int32_t count) const noexcept override {
    if (count != OPS[op_].inputs) return fail(OPS[op_].name, "another number of inputs than the op takes");
    for (int i = 0; i < count; ++i)
      if (scalar_of(in[i]) < 0 || in[i] != in[0])
        return fail(OPS[op_].name, "takes inputs of one type, float32, float16 or bfloat16");
    out[0] = in[0];
    return 0;
  }

  int32_t getOutputShapes(const DimsExprs* inputs, int32_t count, const DimsExprs*, int32_t, DimsExprs* outputs,
                          int32_t, IExprBuilder& builder) noexcept override {
    Shape<Expression> in[MAX_INPUTS], out;
    for (int i = 0; i < count; ++i) {
      in[i].rank = inputs[i].nbDims;
      for (int d = 0; d < in[i].rank; ++d) in[i].dims[d] = Expression(inputs[i].d[d], builder);
    }
    if (!output_shape(op_, in, attributes_, out)) return fail(OPS[op_].name, "there is no kernel for these shapes");
    outputs[0].nbDims = out.rank;
    for (int d = 0; d < out.rank; ++d) outputs[0].d[d] = out.dims[d].term(builder);
    return 0;
  }

  bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors, int32_t,
                                 int32_t) noexcept override {
    const PluginTensorDesc& given = tensors[position].desc;
    return given.format == TensorFormat::kLINEAR && scalar_of(given.type) >= 0 && given.type == tensors[0].desc.type;
  }

  int32_t configurePlugin(const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*,
                          int32_t) noexcept override {
    return 0;
  }
  int32_t onShapeChange(const PluginTensorDesc*, int32_t, const PluginTensorDesc*, int32_t) noexcept override {
    return 0;
  }

  int32_t enqueue(const PluginTensorDesc* tensors, const PluginTensorDesc*, const void* const* inputs,
                  void* const* outputs, void*, cudaStream_t stream) noexcept override {
    const char* name = OPS[op_].name;
    Shape<int64_t> in[MAX_INPUTS];
    for (int i = 0; i < OPS[op_].inputs; ++i) {
      in[i].rank = tensors[i].dims.nbDims;
      for (int d = 0; d < in[i].rank; ++d) in[i].dims[d] = tensors[i].dims.d[d];
    }
    Shape<int64_t> out;
    if (!output_shape(op_, in, attributes_, out)) return fail(name, "there is no kernel for these shapes");
    for (int d = 0; d < out.rank; ++d)
      if (out.dims[d] == 0) return 0;  // an output without elements
    Launch launch;
    if (!launch_of(op_, in, attributes_, launch)) return fail(name, "there is no kernel for these shapes");

    // The kernel takes the inputs, the numbers, the output: an array of the addresses of each.
    int32_t numbers[MAX_NUMBERS];
    void* arguments[MAX_INPUTS + MAX_NUMBERS + 1];
    int count = 0;
    for (int i = 0; i < OPS[op_].inputs; ++i) arguments[count++] = const_cast<const void**>(&inputs[i]);
    for (int i = 0; i < launch.count; ++i) {
      numbers[i] = int32_t(launch.numbers[i]);
      if (numbers[i] != launch.numbers[i]) return fail(name, "a size is beyond 32 bits; use smaller batches");
      arguments[count++] = &numbers[i];
    }
    arguments[count++] = const_cast<void**>(&outputs[0]);

    const int64_t* grid = launch.grid;
    const void* kernel = KERNELS[op_][launch.variant][scalar_of(tensors[0].type)]();
    const cudaError_t status =
        cudaLaunchKernel(kernel, dim3(unsigned(grid[0]), unsigned(grid[1]), unsigned(grid[2])),
                         dim3(unsigned(launch.block[0]), unsigned(launch.block[1]), unsigned(launch.block[2])),
                         arguments, 0, stream);
    return status == cudaSuccess ? 0 : fail(name, cudaGetErrorString(status));
  }

 private:
  int op_;
  int64_t attributes_[MAX_ATTRIBUTES]{};
  int32_t written_[MAX_ATTRIBUTES]{};
  PluginField fields_[MAX_ATTRIBUTES];
  PluginFieldCollection collection_{};
};

class Creator final : public IPluginCreatorV3One {
 public:
  void describe(int op) {
    op_ = op;
    for (int i = 0; i < OPS[op].attributes; ++i)
      fields_[i] = PluginField(OPS[op].attribute_names[i], nullptr, PluginFieldType::kINT32, 1);
    collection_ = {OPS[op].attributes, fields_};
  }

  const char* getPluginName() const noexcept override { return OPS[op_].name; }
  const char* getPluginVersion() const noexcept override { return VERSION; }
  const char* getPluginNamespace() const noexcept override { return NAMESPACE; }
  const PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

  IPluginV3* createPlugin(const char*, const PluginFieldCollection* given, TensorRTPhase) noexcept override {
    int64_t attributes[MAX_ATTRIBUTES]{};
    for (int i = 0; i < OPS[op_].attributes; ++i)
      if (!read(given, OPS[op_].attribute_names[i], attributes[i])) {
        fail(OPS[op_].name, "an attribute is missing, or is not one whole number");
        return nullptr;
      }
    return new Plugin(op_, attributes);
  }

 private:
  static bool read(const PluginFieldCollection* given, const char* name, int64_t& value) {
    for (int i = 0; i < given->nbFields; ++i) {
      const PluginField& field = given->fields[i];
      if (std::strcmp(field.name, name) != 0 || field.length != 1 || !field.data) continue;
      if (field.type == PluginFieldType::kINT32) value = *static_cast<const int32_t*>(field.data);
      else if (field.type == PluginFieldType::kINT64) value = *static_cast<const int64_t*>(field.data);
      else return false;
      return true;
    }
    return false;
  }

  int op_ = 0;
  PluginField fields_[MAX_ATTRIBUTES];
  PluginFieldCollection collection_{};
};

}  // namespace

// What TensorRT looks up in a library of plugins.
extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  logger_finder = finder;
}

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    int32_t& count) {
  static Creator creators[OP_COUNT];
  static IPluginCreatorInterface* pointers[OP_COUNT];
  for (int op = 0; op < OP_COUNT; ++op) {
    creators[op].describe(op);
    pointers[op] = &creators[op];
  }
  count = OP_COUNT;
  return pointers;
}
