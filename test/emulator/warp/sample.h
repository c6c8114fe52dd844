// Counting without running everything: some blocks of a launch stand for all of them.
// What blocks do differs where their tiles are cut off and where images have their border, so each dimension of the grid has three
// kinds of blocks: the first, the last, and those between. Blocks of the same kinds form a part; of a part of m blocks max(m / n, 2) run
// (all, if there are fewer), one from each of as many equal pieces of it, at a place that a hash chooses: a stride would meet the
// same column of the grid again and again. The counts of a part are scaled by its blocks / those run: exact where the blocks of a part
// do the same work, an unbiased estimate where they do not. The first and the last block of a grid always run.
#pragma once
#include "warp.h"

namespace ptxemu {

struct Sample {
  struct Part { uint64_t blocks = 0, run = 0; };
  struct Pick {
    uint64_t block;
    uint32_t part;
  };
  std::vector<Part> parts;
  std::vector<Pick> picks;  // in order of their blocks
};
Sample sample_of(const Dim3& grid, int n);

// What the counts of a launch depend on: all but where in memory its data lie (beyond their alignment to 256 bytes).
std::string without_addresses(const Launch& launch, const Memory& memory);

}  // namespace ptxemu
