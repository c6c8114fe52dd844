#include "select.h"

namespace ptxemu {

const std::unordered_map<std::string_view, Decode>& decode_table() {
  static const Table table = [] {
    Table t;
    add_integer(t), add_float(t), add_logic(t), add_arithmetic(t), add_approximate(t), add_compare(t), add_convert(t), add_move(t),
        add_memory(t);
    add_atomic(t), add_async_copy(t), add_collective(t), add_matrix(t), add_synchronisation(t);
    return t;
  }();
  return table;
}

}  // namespace ptxemu
