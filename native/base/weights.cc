#include "weights.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "floats.h"

namespace lorafuse {
namespace {

float read(const unsigned char* data, DType dtype, int64_t i) {
  if (dtype == DType::f32) {
    float x;
    std::memcpy(&x, data + 4 * i, 4);
    return x;
  }
  uint16_t bits;
  std::memcpy(&bits, data + 2 * i, 2);
  return dtype == DType::f16 ? widen(Half{bits}) : widen(Bfloat{bits});
}

void write(unsigned char* data, DType dtype, int64_t i, float x) {
  if (dtype == DType::f32) {
    std::memcpy(data + 4 * i, &x, 4);
    return;
  }
  const uint16_t bits = dtype == DType::f16 ? to_half(x).bits : to_bfloat(x).bits;
  std::memcpy(data + 2 * i, &bits, 2);
}

}  // namespace

Weights::~Weights() {
  for (const Mapping& m : mappings_) munmap(const_cast<unsigned char*>(m.data), m.bytes);
}

void Weights::add(const std::string& path, const std::vector<WeightEntry>& entries) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  CHECK(file >= 0, "FILE_NOT_FOUND", "Expected a readable weight file at ", path, " but received: ", std::strerror(errno));
  struct stat info {};
  const bool known = fstat(file, &info) == 0 && info.st_size > 0;
  void* data = known ? mmap(nullptr, info.st_size, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
  close(file);
  CHECK(data != MAP_FAILED, "WEIGHTS_TRUNCATED", "Expected tensors in ", path, " but the file is empty or cannot be mapped");
  mappings_.push_back({path, static_cast<const unsigned char*>(data), static_cast<size_t>(info.st_size)});
  for (const WeightEntry& e : entries) {
    const size_t bytes = static_cast<size_t>(e.shape.elements()) * size_of(e.dtype), size = static_cast<size_t>(info.st_size);
    CHECK(e.offset <= size && bytes <= size - e.offset, "WEIGHTS_TRUNCATED", "Expected tensor ", e.name, " at bytes ", e.offset, "…", e.offset + bytes,
          " of ", path, " but the file ends at ", info.st_size);
    entries_[e.name] = Entry{e, mappings_.back().data + e.offset, nullptr, {}};
  }
}

const WeightEntry* Weights::find(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &found->second.info;
}

Tensor Weights::get(const std::string& name) {
  Entry& e = entries_.at(name);
  if (e.ready.data) return e.ready;
  const Shape& s = e.info.shape;
  DType dtype = e.info.dtype;
  if (s.rank() >= 2 && precision_ != Precision::as_is) dtype = precision_ == Precision::f16 ? DType::f16 : DType::bf16;
  const bool is_conv = s.rank() == 4;
  const int64_t taps = is_conv ? s[2] * s[3] : 1;
  const Shape shape = !is_conv ? s : taps == 1 ? Shape{s[0], s[1]} : Shape{taps, s[0], s[1]};
  const bool aligned = reinterpret_cast<uintptr_t>(e.data) % size_of(dtype) == 0;
  if (dtype == e.info.dtype && taps == 1 && aligned) return e.ready = {const_cast<unsigned char*>(e.data), dtype, shape};

  const int64_t matrix = s.elements() / taps;
  const size_t size = size_of(dtype);
  e.copy = std::make_unique<unsigned char[]>(s.elements() * size);
  if (dtype == e.info.dtype) {
    for (int64_t tap = 0; tap < taps; tap++)
      for (int64_t i = 0; i < matrix; i++) std::memcpy(e.copy.get() + (tap * matrix + i) * size, e.data + (i * taps + tap) * size, size);
  } else {
    for (int64_t tap = 0; tap < taps; tap++)
      for (int64_t i = 0; i < matrix; i++) write(e.copy.get(), dtype, tap * matrix + i, read(e.data, e.info.dtype, i * taps + tap));
  }
  // The pages of the file are not read again.
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(e.data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(e.data) + s.elements() * size_of(e.info.dtype)) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  return e.ready = {e.copy.get(), dtype, shape};
}

void Weights::release() {
  for (auto& [name, e] : entries_) {
    e.copy.reset();
    e.ready = {};
  }
  for (const Mapping& m : mappings_) madvise(const_cast<unsigned char*>(m.data), m.bytes, MADV_DONTNEED);
}

}  // namespace lorafuse
