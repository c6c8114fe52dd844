// Operands of a type: its edges, and random ones of which half lie where arithmetic happens.
#pragma once
#include <random>
#include <vector>

#include "rows.h"

namespace ptxemu::test {

std::vector<Bits> edges(Type type);
Bits random_operand(Type type, std::mt19937_64& random);

// `count` rows of operands: all combinations of edges where they are few, else a random choice of them, then random operands.
std::vector<std::vector<Bits>> operands(const std::vector<Type>& types, size_t count);

}  // namespace ptxemu::test
