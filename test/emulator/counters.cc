// What a profiler would show: Nsight Compute's inst_executed, l1tex__t_sectors, l1tex__data_bank_conflicts and the like.
#include "machine.h"

namespace ptxemu {

namespace {
struct Field {
  const char* name;
  uint64_t KernelCounters::* value;
};
constexpr Field fields[] = {
    {"launches", &KernelCounters::launches},
    {"blocks", &KernelCounters::blocks},
    {"warps", &KernelCounters::warps},
    {"blocks_run", &KernelCounters::blocks_run},
    {"warp_instructions", &KernelCounters::warp_instructions},
    {"thread_instructions", &KernelCounters::thread_instructions},
    {"mma_k8", &KernelCounters::mma_k8},
    {"flops", &KernelCounters::flops},
    {"special", &KernelCounters::special},
    {"barriers", &KernelCounters::barriers},
    {"global_load_bytes", &KernelCounters::global_load_bytes},
    {"global_store_bytes", &KernelCounters::global_store_bytes},
    {"global_load_sectors", &KernelCounters::global_load_sectors},
    {"global_store_sectors", &KernelCounters::global_store_sectors},
    {"global_requests", &KernelCounters::global_requests},
    {"shared_requests", &KernelCounters::shared_requests},
    {"shared_passes", &KernelCounters::shared_passes},
    {"shared_conflicts", &KernelCounters::shared_conflicts},
    {"local_requests", &KernelCounters::local_requests},
    {"atomics", &KernelCounters::atomics},
};
}  // namespace

void KernelCounters::add(const KernelCounters& other, uint64_t times, uint64_t by) {
  __extension__ using Wide = unsigned __int128;
  for (auto& f : fields) this->*f.value += uint64_t((Wide(other.*f.value) * times + by / 2) / by);
}

std::string KernelCounters::json() const {
  std::string out = "{";
  for (auto& f : fields) out += std::string(&f == fields ? "\"" : ", \"") + f.name + "\": " + std::to_string(this->*f.value);
  return out + "}";
}

std::string Counters::json() const {
  std::string out = "{";
  for (auto& [kernel, c] : kernels) out += (out.size() > 1 ? ",\n \"" : "\n \"") + kernel + "\": " + c.json();
  return out + "\n}\n";
}

}  // namespace ptxemu
