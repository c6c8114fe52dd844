// LORAFUSE_DEBUG, a list of words in the environment, makes sessions write to stderr what they do; nothing else in the core prints.
//   plan   each program's memory: the arena, the least that any plan needs, the largest values alive at the peak
//   graph  each program's nodes with their layers and shapes
//   time   the milliseconds of each kind of op, and of each block, in each run, one node at a time
//   nan    the first node of each run whose output is not finite
#pragma once
#include "program.h"

namespace lorafuse {

// For a program that was just made: plan, graph.
void debug(const std::string& what, const Program& program);
// Runs a program: as it does by itself or, for time, nan and `times`, node by node.
void run_program(Program& program, std::function<void()> end = {}, Program::Times* times = nullptr);

}  // namespace lorafuse
