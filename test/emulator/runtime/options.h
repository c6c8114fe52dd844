// The settings of the emulated machine: environment variables when the library is loaded, ptxemu_set_option later.
//   PTXEMU_GPU      75 (default), 80, 86, 87, 89, 90, 100, 103, 110, 120, 121   compute capability
//   PTXEMU_DEVICES   1 (default), 0 = a machine without a GPU
//   PTXEMU_MULTIPROCESSORS  number (default 4): what programs fit their grids to
//   PTXEMU_MEMORY    bytes of device memory, with K, M or G at will
//   PTXEMU_ORDER     forward (default), backward, random      warps of a block and blocks of a grid
//   PTXEMU_SEED      number (default 1): order of streams, random orders, jitter
//   PTXEMU_ROUNDING  sequential (default), truncated          sums of mma
//   PTXEMU_JITTER    0 (default), 1                           approximate instructions off as far as the ISA allows
//   PTXEMU_THREADS   host threads of a launch
//   PTXEMU_CHECKS    all (default), none, or some of races,uninitialised
//   PTXEMU_EXECUTE  1 (default), 0 = launches are checked and noted (ptxemu_launched) and do not run
//   PTXEMU_COUNTERS  file: the counters are written there when the library is unloaded
//   PTXEMU_LAUNCHES  file: a line of JSON for each launch with its grid, block and counters, in the order in which they run, and one for
//                    each copy to the host
//   PTXEMU_SAMPLE    n > 1: for the counters only, about one block in n runs (README.md); excludes PTXEMU_CHECKS other than none
//   PTXEMU_FAIL_ALLOCATION, PTXEMU_FAIL_LAUNCH   n: the n-th one fails
#pragma once
#include <string>

#include "machine.h"

namespace ptxemu {

struct Settings {
  int compute_capability = 75;
  int devices = 1;
  int multiprocessors = 0;  // 0 = the GPU's
  size_t memory_bytes = 0;  // 0 = the GPU's
  Options options;
  std::string counters_file, launches_file;
  bool execute = true;
  bool checks_asked = false;                  // PTXEMU_CHECKS asks for some
  long fail_allocation = 0, fail_launch = 0;  // 0 = none

  // Throws std::invalid_argument that says what was expected.
  void set(const std::string& name, const std::string& value);
  // From the environment; the text of the first bad value, or "".
  std::string read_environment();
};

}  // namespace ptxemu
