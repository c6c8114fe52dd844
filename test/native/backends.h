// Every CPU backend that this processor runs, each opened once, and memory that notices writes beyond its ends.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "graph/backend.h"
#include "test.h"

namespace lorafuse::test {

const std::vector<std::string>& variants();     // generic, x86-64-v3, …
std::string label(const std::string& variant);  // generic, v3, v4, v4-bf16
DType multiplies(const std::string& variant);   // what its products round their operands to; f32: they do not
Backend& backend(const std::string& variant, int threads);

// The CUDA backend on the emulated GPU, or what LORAFUSE_CUDA_LIBRARY names; none where this build has no CUDA.
Backend* gpu();
std::vector<DType> gpu_types();  // what it computes in
// What whole networks are computed in: in a quick selection only fp16, a training's type there.
std::vector<DType> gpu_network_types();
// A function of the emulator (test/emulator/runtime/ptxemu.h); null on a real GPU.
void* emulator_symbol(const char* name);
template <class Function> Function* emulator_call(const char* name) { return reinterpret_cast<Function*>(emulator_symbol(name)); }
// Sets an option of the emulator (test/emulator/runtime/options.h); does nothing on a real GPU.
void set_emulator(const char* name, const char* value);

// `bytes` bytes of 0xff (NaN in every float type) between two runs of sentinel bytes.
class Guarded {
 public:
  explicit Guarded(size_t bytes) : bytes_(bytes), memory_(new (std::align_val_t(64)) unsigned char[bytes + 2 * kGuard]) {
    std::fill_n(memory_.get(), bytes + 2 * kGuard, kSentinel);
    std::fill_n(data(), bytes, 0xff);
  }
  unsigned char* data() const { return memory_.get() + kGuard; }
  size_t bytes() const { return bytes_; }
  void expect_intact(const std::string& what) const {
    for (size_t i = 0; i < kGuard; i++) {
      EXPECT(memory_[i] == kSentinel, what, " was written ", kGuard - i, " bytes before its begin");
      EXPECT(memory_[kGuard + bytes_ + i] == kSentinel, what, " was written ", i + 1, " bytes beyond its end");
    }
  }

 private:
  static constexpr size_t kGuard = 256;
  static constexpr unsigned char kSentinel = 0xa5;
  struct Delete {
    void operator()(unsigned char* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  size_t bytes_;
  std::unique_ptr<unsigned char[], Delete> memory_;
};

// Memory of a backend: on the GPU each block is an allocation of its own, so that the emulator sees every access beyond one.
class Held {
 public:
  Held(Backend& backend, size_t bytes) : backend_(&backend), data_(backend.allocate(bytes)), bytes_(bytes) {
    backend.fill(data_, 0xff, bytes);
  }
  Held(Backend& backend, const std::vector<unsigned char>& bytes) : Held(backend, bytes.size()) {
    backend.upload(data_, bytes.data(), bytes_);
  }
  Held(Held&& other) noexcept : backend_(other.backend_), data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  Held& operator=(Held&&) = delete;
  ~Held() {
    if (data_) backend_->release(data_);
  }
  void* data() const { return data_; }
  std::vector<unsigned char> read() const {
    std::vector<unsigned char> bytes(bytes_);
    backend_->download(bytes.data(), data_, bytes_);
    return bytes;
  }

 private:
  Backend* backend_;
  void* data_;
  size_t bytes_;
};

}  // namespace lorafuse::test
