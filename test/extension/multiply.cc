#include "graph/rules.h"

namespace lorafuse {

template <> std::vector<Shape> shapes_of(const Multiply& op, const std::vector<Shape>& in) {
  CHECK(in[0] == in[1], "SHAPE_MISMATCH", "[", op.name, "] expected equal shapes but received ", in[0], " and ", in[1]);
  return {in[0]};
}

template <> void gradient(const Multiply&, Backward& b) {
  for (size_t i = 0; i < 2; i++)
    if (b.needs(i)) b.add(i, b.emit(Multiply{}, {b.dy(), b.in(1 - i)}));
}

}  // namespace lorafuse
