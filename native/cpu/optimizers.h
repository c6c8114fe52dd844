// An update of the adapters: the norm of all gradients, then each group's parameters.
#pragma once
#include "../graph/optimizers.h"
#include "threads.h"

namespace lorafuse::cpu {

// The elements [begin, end) of all arrays, which are a group's.
struct GroupUpdate {
  const Trained& trained;
  int64_t begin, end;
  ParameterGroup group;
  float gradient_factor;  // clipping and loss scale
  int64_t step;
};

// Moves the parameters of a group and sets their gradients to zero. One specialisation for each optimizer: a missing one does not link.
template <class Kind> void move(const Kind& optimizer, const GroupUpdate& update, Threads& threads);

// Returns the norm of the unscaled gradients; where it is not finite nothing has moved.
float update(Threads& threads, const Optimizer& optimizer, const Update& update, const Trained& trained);

}  // namespace lorafuse::cpu
