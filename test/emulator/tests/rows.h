// One instruction against its definition in plain C++. The types of the definition's parameters and result are the operands' types:
//   row("add.s32", [](int32_t a, int32_t b) { return wrap(a + b); });
//   row("setp.lt.and.f32 %d, %a, %b, !%c", [](float a, float b, bool c) { return a < b && !c; });
// Every row runs over thousands of operands: the edges of its types in combination, then random ones.
#pragma once
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "rounding.h"

namespace ptxemu::test {

using Bits = uint64_t;

// What a result is allowed to be off by where the ISA gives only a maximum error; the larger of the three counts.
struct Tolerance { double relative = 0, absolute = 0, ulps = 0; };

// Thrown by a definition for operands whose result the ISA leaves open.
struct Unspecified {};

enum class Kind { predicate, integer, f16, bf16, f16x2, bf16x2, f32, f64 };
struct Type {
  Kind kind;
  int bits;  // in memory
};

template <class T> constexpr Type type_of() {
  if constexpr (std::is_same_v<T, bool>) return {Kind::predicate, 8};
  else if constexpr (std::is_integral_v<T>) return {Kind::integer, 8 * sizeof(T)};
  else if constexpr (std::is_same_v<T, float>) return {Kind::f32, 32};
  else if constexpr (std::is_same_v<T, double>) return {Kind::f64, 64};
  else if constexpr (std::is_same_v<T, F16>) return {Kind::f16, 16};
  else if constexpr (std::is_same_v<T, BF16>) return {Kind::bf16, 16};
  else if constexpr (std::is_same_v<T, F16x2>) return {Kind::f16x2, 32};
  else return {Kind::bf16x2, 32};
}
template <class T> T value_of(Bits bits) {
  T value;
  std::memcpy(static_cast<void*>(&value), &bits, sizeof value);
  return value;
}
template <class T> Bits bits_of(T value) {
  Bits bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

struct Row {
  std::string text;
  Type out;
  std::vector<Type> in;
  std::function<Bits(const Bits*)> definition;       // exact
  std::function<double(const Bits*)> approximation;  // or within `tolerance`
  Tolerance tolerance;
};
void add_row(Row row);

template <class Out, bool exact, class F, class R, class... A>
void typed_row(const std::string& text, F f, Tolerance tolerance, R (F::*)(A...) const) {
  Row row{text, type_of<Out>(), {type_of<A>()...}, {}, {}, tolerance};
  auto call = [f](const Bits* in) {
    return [&]<size_t... I>(std::index_sequence<I...>) { return f(value_of<A>(in[I])...); }(std::index_sequence_for<A...>());
  };
  if constexpr (exact) row.definition = [call](const Bits* in) { return bits_of<Out>(call(in)); };
  else row.approximation = call;
  add_row(std::move(row));
}

template <class F> struct Signature : Signature<decltype(&F::operator())> {};
template <class F, class R, class... A> struct Signature<R (F::*)(A...) const> { using Result = R; };

template <class F> void row(const std::string& text, F definition) {
  typed_row<typename Signature<F>::Result, true>(text, definition, {}, &F::operator());
}
// The definition gives the exact value in double; the instruction's result is an Out within the tolerance.
template <class Out, class F> void approximate_row(const std::string& text, Tolerance tolerance, F definition) {
  static_assert(std::is_same_v<typename Signature<F>::Result, double>);
  typed_row<Out, false>(text, definition, tolerance, &F::operator());
}

}  // namespace ptxemu::test
