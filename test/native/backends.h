// Every CPU backend that this processor runs, each opened once, and memory that notices writes beyond its ends.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "graph/backend.h"
#include "test.h"

namespace lorafuse::test {

const std::vector<std::string>& variants();  // generic, x86-64-v3, …
std::string label(const std::string& variant);  // generic, v3, v4
Backend& backend(const std::string& variant, int threads);

// The CUDA backend on the emulated card, or what LORAFUSE_CUDA_LIBRARY names; none where this build has no CUDA.
Backend* card();
std::vector<DType> card_types();  // what it computes in

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

}  // namespace lorafuse::test
