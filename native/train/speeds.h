// How fast a backend is: measured in about a second, on ops as large as those of a step.
#pragma once
#include <map>
#include <string>

#include "../graph/backend.h"

namespace lorafuse {

struct Speeds {
  double bytes = 0;                     // a second, read and written by an op that does little else
  std::map<std::string, double> flops;  // a second, of the ops that have many of them
};

Speeds measure_speeds(Backend& backend, DType activations);

}  // namespace lorafuse
