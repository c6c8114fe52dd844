// Plain arrays that own their numbers, random data, and how far two of them are apart.
#pragma once
#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <vector>

#include "base/floats.h"
#include "base/tensor.h"
#include "test.h"

namespace lorafuse::test {

template <class T> struct Array {
  Shape shape;
  std::vector<T> data;

  Array() = default;
  explicit Array(Shape s) : shape(std::move(s)), data(shape.elements(), T(0)) {}
  template <class From> Array(Shape s, const std::vector<From>& from) : shape(std::move(s)), data(from.begin(), from.end()) {}
  T& operator[](int64_t i) { return data[i]; }
  const T& operator[](int64_t i) const { return data[i]; }
};

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  float normal() { return normal_(engine_); }
  float uniform() { return std::uniform_real_distribution<float>(0, 1)(engine_); }
  int64_t below(int64_t n) { return std::uniform_int_distribution<int64_t>(0, n - 1)(engine_); }
  std::vector<float> normals(int64_t count, float scale = 1, float shift = 0) {
    std::vector<float> out(count);
    for (float& x : out) x = shift + scale * normal();
    return out;
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_;
};

// x as `dtype` can hold it.
inline float rounded(DType dtype, float x) {
  return dtype == DType::f16 ? widen(to_half(x)) : dtype == DType::bf16 ? widen(to_bfloat(x)) : x;
}

// `values` as a tensor of this type has them in memory.
inline std::vector<unsigned char> stored(DType dtype, const std::vector<float>& values) {
  std::vector<unsigned char> bytes(values.size() * size_of(dtype));
  for (size_t i = 0; i < values.size(); i++) {
    const int32_t integer = static_cast<int32_t>(values[i]);
    const uint16_t half = dtype == DType::f16 ? to_half(values[i]).bits : to_bfloat(values[i]).bits;
    const void* from = &half;
    if (dtype == DType::f32) from = &values[i];
    if (dtype == DType::i32) from = &integer;
    std::memcpy(bytes.data() + i * size_of(dtype), from, size_of(dtype));
  }
  return bytes;
}

// The numbers of a tensor of this type, widened.
inline std::vector<float> loaded(DType dtype, const std::vector<unsigned char>& bytes) {
  std::vector<float> values(bytes.size() / size_of(dtype));
  for (size_t i = 0; i < values.size(); i++) {
    uint16_t half = 0;
    std::memcpy(dtype == DType::f32 ? static_cast<void*>(&values[i]) : &half, bytes.data() + i * size_of(dtype), size_of(dtype));
    if (dtype != DType::f32) values[i] = dtype == DType::f16 ? widen(Half{half}) : widen(Bfloat{half});
  }
  return values;
}

// How far results are from the f64 reference, gathered over arrays: ‖difference‖ / ‖reference‖ and max |difference| / max |reference|.
class Deviation {
 public:
  template <class T> void add(std::span<const T> actual, const Array<double>& expected) {
    EXPECT(actual.size() == expected.data.size(), actual.size(), " elements instead of ", expected.data.size());
    for (size_t i = 0; i < actual.size(); i++) {
      const double d = std::fabs(static_cast<double>(actual[i]) - expected.data[i]);
      squares_ += d * d;
      reference_squares_ += expected.data[i] * expected.data[i];
      if (!(d <= most_)) most_ = d;
      scale_ = std::max(scale_, std::fabs(expected.data[i]));
    }
  }
  template <class T> void add(const Array<T>& actual, const Array<double>& expected) { add(std::span<const T>(actual.data), expected); }

  // Where all of the reference is 0, the absolute difference.
  double l2() const { return std::sqrt(squares_ / (reference_squares_ > 0 ? reference_squares_ : 1)); }
  double most() const { return most_ / (scale_ > 0 ? scale_ : 1); }

 private:
  double squares_ = 0, reference_squares_ = 0, most_ = 0, scale_ = 0;
};

// The rule of every comparison here: at most twice the error that the plain loops make in the same precision. The largest of few errors is
// luck within the spacing of floats at the result's scale, so that much is added to it (flash-attention:tests/test_flash_attn.py,
// fwd_atol).
inline void expect_as_good(const std::string& what, const Deviation& actual, const Deviation& naive, DType dtype = DType::f32) {
  const double spacing = dtype == DType::f32 ? 0x1p-23 : dtype == DType::f16 ? 0x1p-10 : 0x1p-7;
  EXPECT(actual.l2() <= 2 * naive.l2(), what, " has a relative L2 error of ", actual.l2(), ", plain ", name_of(dtype), " loops have ",
         naive.l2());
  EXPECT(actual.most() <= 2 * (naive.most() + spacing), what, " has a largest error of ", actual.most(), " of its scale, plain ",
         name_of(dtype), " loops ", naive.most());
}

}  // namespace lorafuse::test
