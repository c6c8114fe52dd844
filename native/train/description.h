// What a planned program does and holds, node by node, for those who ask before it runs.
#pragma once
#include <string>
#include <vector>

#include "program.h"

namespace lorafuse {

struct Description {
  struct Work {
    std::string op, layer;
    double flops = 0;  // floating-point operations
    size_t bytes = 0;  // that are read and written, each once
    size_t alive = 0;  // of the arena, while it runs
    Shape shape;       // of its first output
  };
  // Something in the arena.
  struct Held {
    std::string name, layer;  // an input's, or of the op that made it
    Shape shape;
    size_t bytes = 0;
  };
  std::vector<Work> nodes;    // in their order
  std::vector<Held> largest;  // when most is alive: the ten largest, largest first
};

Description describe(const Program& program);

}  // namespace lorafuse
