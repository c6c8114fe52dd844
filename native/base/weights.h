// Frozen weights: tensors in mapped files, found by name. Nothing is copied but what must change form:
//   a 1×1 convolution [N, C, 1, 1]   → [N, C]
//   a k×k convolution [N, C, k, k]   → [k·k, N, C]
//   one [N, C, 3, 3] that upsamples  → [4·4, C, N], its taps in sums: those that fall on one pixel of what nearest neighbour has doubled
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tensor.h"

namespace lorafuse {

// A tensor of a safetensors file, as the header (read and checked by lib/safetensors.ts) has it.
struct WeightEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  size_t offset = 0;  // bytes from the start of the file
};

class Weights {
 public:
  // The types that matrices (rank 2 and more) and vectors are held in; none: as the file has them, sums of its taps in f32.
  struct Held { std::optional<DType> matrices, vectors; };

  explicit Weights(Held held) : held_(held) {}
  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  // Maps a file. Throws FILE_NOT_FOUND, or WEIGHTS_TRUNCATED where an entry lies outside of it.
  void add(const std::string& path, const std::vector<WeightEntry>& entries);

  const WeightEntry* find(const std::string& name) const;
  DType dtype(const std::string& name) const;
  DType dtype_of_sums() const { return held_.matrices.value_or(DType::f32); }
  // The data, ready for kernels, in that type and one of the shapes above.
  Tensor get(const std::string& name, DType dtype, const Shape& shape);
  // Frees what get() had to copy.
  void release();
  void release(const std::string& name);

 private:
  struct Mapping {
    std::string path;
    const unsigned char* data = nullptr;
    size_t bytes = 0;
  };
  struct Entry {
    WeightEntry info;
    const unsigned char* data = nullptr;
    std::unique_ptr<unsigned char[]> copy;
    Tensor ready;
  };

  Held held_;
  std::vector<Mapping> mappings_;
  std::map<std::string, Entry> entries_;
};

}  // namespace lorafuse
