// Picks the handler of a type: for_integers(type, []<class T>() -> Handler { return binary<T, T, T, Add>; }). nullptr = not for this type.
#pragma once
#include "../decode.h"
#include "lanes.h"

namespace ptxemu {

template <class G> Handler for_integers(Type type, G&& get) {
  switch (type) {
    case Type::u16:
    case Type::b16: return get.template operator()<uint16_t>();
    case Type::s16: return get.template operator()<int16_t>();
    case Type::u32:
    case Type::b32: return get.template operator()<uint32_t>();
    case Type::s32: return get.template operator()<int32_t>();
    case Type::u64:
    case Type::b64: return get.template operator()<uint64_t>();
    case Type::s64: return get.template operator()<int64_t>();
    default: return nullptr;
  }
}

template <class G> Handler for_32_and_64(Type type, G&& get) { return bytes(type) < 4 ? nullptr : for_integers(type, get); }

template <class G> Handler for_bits(Type type, G&& get) {  // untyped: by size
  switch (bytes(type)) {
    case 2: return get.template operator()<uint16_t>();
    case 4: return get.template operator()<uint32_t>();
    case 8: return get.template operator()<uint64_t>();
    default: return nullptr;
  }
}

template <class G> Handler for_floats(Type type, G&& get) {  // f32, f64
  if (type == Type::f32) return get.template operator()<float>();
  if (type == Type::f64) return get.template operator()<double>();
  return nullptr;
}

inline bool is_half(Type t) { return t == Type::f16 || t == Type::f16x2 || t == Type::bf16 || t == Type::bf16x2; }

using Table = std::unordered_map<std::string_view, Decode>;
void add_integer(Table& table);
void add_float(Table& table);
void add_half(Table& table);
void add_logic(Table& table);
void add_arithmetic(Table& table);  // add, sub, mul, ... of any type
void add_approximate(Table& table);
void add_compare(Table& table);
void add_convert(Table& table);
void add_move(Table& table);
void add_memory(Table& table);
void add_atomic(Table& table);
void add_async_copy(Table& table);
void add_collective(Table& table);
void add_matrix(Table& table);
void add_synchronisation(Table& table);

// One opcode, many types: the decoders of arithmetic.cc ask these (nullptr = not mine).
Handler half_handler(const Decoder& d);          // half.cc
Handler float_handler(const Decoder& d);         // float.cc
Handler integer_handler(const Decoder& d);       // integer.cc
Handler divide_approximately(const Decoder& d);  // approximate.cc

}  // namespace ptxemu
