// A dim while an engine is built: a number, or an expression of TensorRT's with the arithmetic of one.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

#include "dims.h"

class Expression {
 public:
  Expression() = default;
  Expression(int64_t value) : value_(value) {}  // NOLINT: numbers mix with expressions in geometry.h
  Expression(const nvinfer1::IDimensionExpr* dim, nvinfer1::IExprBuilder& builder) : builder_(&builder) {
    if (dim->isConstant())
      value_ = dim->getConstantValue();
    else
      later_ = dim;
  }

  // TensorRT's own object.
  const nvinfer1::IDimensionExpr* term(nvinfer1::IExprBuilder& builder) const {
    return later_ ? later_ : builder.constant(value_);
  }

  friend Expression operator+(const Expression& a, const Expression& b) {
    return of(nvinfer1::DimensionOperation::kSUM, a, b, a.value_ + b.value_);
  }
  friend Expression operator-(const Expression& a, const Expression& b) {
    return of(nvinfer1::DimensionOperation::kSUB, a, b, a.value_ - b.value_);
  }
  friend Expression operator*(const Expression& a, const Expression& b) {
    return of(nvinfer1::DimensionOperation::kPROD, a, b, a.value_ * b.value_);
  }
  friend Expression floor_div(const Expression& a, const Expression& b) {
    const bool known = !a.later_ && !b.later_;
    return of(nvinfer1::DimensionOperation::kFLOOR_DIV, a, b, known ? ::floor_div(a.value_, b.value_) : 0);
  }
  friend bool is(const Expression& dim, int64_t value) { return !dim.later_ && dim.value_ == value; }

 private:
  static Expression of(nvinfer1::DimensionOperation operation, const Expression& a, const Expression& b, int64_t known) {
    if (!a.later_ && !b.later_) return Expression(known);
    nvinfer1::IExprBuilder& builder = *(a.later_ ? a : b).builder_;
    return Expression(builder.operation(operation, *a.term(builder), *b.term(builder)), builder);
  }

  const nvinfer1::IDimensionExpr* later_ = nullptr;
  int64_t value_ = 0;
  nvinfer1::IExprBuilder* builder_ = nullptr;
};
