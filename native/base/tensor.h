// Element types, shapes and non-owning views of memory.
// Dimension letters, everywhere: B batch, H height, W width, C channels, T tokens, N output features, K input features, R rank.
#pragma once
#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "check.h"

namespace lorafuse {

enum class DType : uint8_t { f32, f16, bf16, i32 };

inline size_t size_of(DType dtype) { return dtype == DType::f16 || dtype == DType::bf16 ? 2 : 4; }

inline const char* name_of(DType dtype) {
  const char* names[] = {"f32", "f16", "bf16", "i32"};
  return names[static_cast<int>(dtype)];
}

// Where values begin in a block of memory: two cache lines, a zmm register twice, a coalesced access of a warp.
constexpr size_t kAlignment = 128;
constexpr size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Row-major extents, the last one contiguous. NHWC images and [B, T, C] tokens are the same bytes.
// No product of a shape's extents is more than kMost, so sizes computed from it do not overflow; making a larger one throws OUT_OF_MEMORY.
class Shape {
 public:
  static constexpr int64_t kMost = int64_t{1} << 44;

  Shape() = default;
  Shape(std::initializer_list<int64_t> extents) : Shape(std::vector<int64_t>(extents)) {}
  explicit Shape(std::vector<int64_t> extents) : extents_(std::move(extents)) {
    int64_t product = 1;
    for (int64_t extent : extents_) {
      CHECK(extent >= 0 && extent <= kMost / product, "OUT_OF_MEMORY", "Expected a tensor of at most 2^44 elements but received ", str());
      product *= std::max<int64_t>(extent, 1);
    }
  }

  int rank() const { return static_cast<int>(extents_.size()); }
  // Negative positions count from the end: shape[-1] is the channels.
  int64_t operator[](int position) const { return extents_.at(position < 0 ? position + rank() : position); }
  int64_t elements() const { return product_of(extents_.size()); }
  // Everything but the last extent, multiplied: a tensor is rows() × channels.
  int64_t rows() const { return rank() == 0 ? 1 : product_of(extents_.size() - 1); }
  // The same shape with another last extent.
  Shape with_channels(int64_t channels) const {
    std::vector<int64_t> extents = extents_;
    extents.back() = channels;
    return Shape(std::move(extents));
  }
  // The same shape with one more extent.
  Shape followed_by(int64_t channels) const {
    std::vector<int64_t> extents = extents_;
    extents.push_back(channels);
    return Shape(std::move(extents));
  }
  auto operator<=>(const Shape& other) const = default;
  std::string str() const {
    std::string out = "[";
    for (size_t i = 0; i < extents_.size(); i++) out += (i ? ", " : "") + std::to_string(extents_[i]);
    return out + "]";
  }

 private:
  int64_t product_of(size_t count) const {
    int64_t product = 1;
    for (size_t i = 0; i < count; i++) product *= extents_[i];
    return product;
  }

  std::vector<int64_t> extents_;
};

inline std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.str(); }

// How kernels read a weight of the file:
enum class Form : uint8_t {
  as_is,       // a vector, a matrix; a 1×1 convolution [N, C, 1, 1] is the matrix [N, C]
  taps_first,  // a k×k convolution [N, C, k, k] → [k·k, N, C]
  // An upsampling convolution [N, C, 3, 3] → [4·4, C, N]: sums of the taps that read the same source pixel after nearest-neighbour
  // doubling.
  summed_taps,
};

// A view: the memory belongs to the arena, a mapped file or the session.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  size_t bytes() const { return static_cast<size_t>(shape.elements()) * size_of(dtype); }
  float* f32() const { return static_cast<float*>(data); }
  const int32_t* i32() const { return static_cast<const int32_t*>(data); }
};

}  // namespace lorafuse
