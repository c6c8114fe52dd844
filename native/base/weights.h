// Frozen weights: tensors in mapped files, found by name. Only what must change its form or type is copied (Form, tensor.h).
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mapping.h"
#include "tensor.h"

namespace lorafuse {

// The kinds of floats of 8 bits, which only files have.
enum class Eight : uint8_t { none, e4m3, e5m2 };

// A tensor of a weight file, as its header (read and checked by lib/models/checkpoint.ts) has it.
struct WeightEntry {
  std::string name;
  DType dtype = DType::f32;  // f16, which has all their values, for floats of 8 bits
  Shape shape;
  size_t offset = 0;  // bytes from the start of the file
  Eight eight = Eight::none;

  size_t bytes() const { return static_cast<size_t>(shape.elements()) * (eight == Eight::none ? size_of(dtype) : 1); }
};

class Weights {
 public:
  // The types that matrices (rank 2 and more) and vectors are held in; none: as the file has them (8 bits in f16), summed taps in f32.
  struct StorageTypes { std::optional<DType> matrices, vectors; };

  explicit Weights(StorageTypes types) : types_(types) {}

  // Maps a regular file, which must stay as it is. Throws as Mapping, and WEIGHTS_TRUNCATED where an entry lies outside of it.
  void add(const std::string& path, const std::vector<WeightEntry>& entries);

  const WeightEntry* find(const std::string& name) const;
  DType dtype(const std::string& name, Form form) const;
  // Whether kernels read it where the file is mapped; else get() copies it.
  bool in_place(const std::string& name, DType dtype, Form form) const;
  // The data, ready for kernels. Different weights may be asked for by different threads at once.
  Tensor get(const std::string& name, DType dtype, const Shape& shape, Form form);
  // Frees what get() had to copy.
  void release();
  void release(const std::string& name);
  // Throws WEIGHTS_TRUNCATED if what was read is not what the files had: see Mapping.
  void check() const;

 private:
  struct Entry {
    WeightEntry info;
    const Mapping* mapping = nullptr;
    const unsigned char* data = nullptr;
    std::unique_ptr<unsigned char[]> copy;
    Tensor ready;
    Form form = Form::as_is;  // of `ready`
  };

  StorageTypes types_;
  std::vector<std::unique_ptr<Mapping>> mappings_;
  std::map<std::string, Entry> entries_;
};

}  // namespace lorafuse
