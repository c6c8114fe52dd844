// Limits of this process that a test lowers for a while.
#pragma once
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

namespace lorafuse::test {

class WithLimit {
 public:
  WithLimit(int resource, rlim_t limit) : resource_(static_cast<decltype(RLIMIT_AS)>(resource)) {
    getrlimit(resource_, &before_);
    const rlimit lower{limit, before_.rlim_max};
    setrlimit(resource_, &lower);
  }
  ~WithLimit() { setrlimit(resource_, &before_); }
  WithLimit(const WithLimit&) = delete;

 private:
  const decltype(RLIMIT_AS) resource_;
  rlimit before_{};
};

// So many bytes of addresses more than there are. Not with ASan, which has mapped more than any limit.
#ifndef __SANITIZE_ADDRESS__
#define LORAFUSE_LIMITS_ADDRESSES
struct WithAddresses : WithLimit {
  explicit WithAddresses(rlim_t more) : WithLimit(RLIMIT_AS, used() + more) {}
  static rlim_t used() {
    rlim_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    return pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
  }
};
#endif

}  // namespace lorafuse::test
