// setp, set, selp, slct: every comparison of every type, combined with a predicate.
// PTX ISA 9.0, "Comparison and Selection Instructions", "Half Precision Comparison Instructions".
// A comparison with a NaN is false, unless it is one of the unordered ones (equ, neu, ltu, leu, gtu, geu), which are then true.
#include "rows.h"
#include "test.h"

namespace ptxemu::test {
namespace {

template <class T> struct Comparison {
  const char* name;
  bool (*holds)(T, T);
};

template <class T> std::vector<Comparison<T>> ordered() {
  return {{"eq", [](T a, T b) { return a == b; }}, {"ne", [](T a, T b) { return a < b || a > b; }},
          {"lt", [](T a, T b) { return a < b; }},  {"le", [](T a, T b) { return a <= b; }},
          {"gt", [](T a, T b) { return a > b; }},  {"ge", [](T a, T b) { return a >= b; }}};
}
template <class T> std::vector<Comparison<T>> unsigned_names() {
  return {{"lo", [](T a, T b) { return a < b; }},
          {"ls", [](T a, T b) { return a <= b; }},
          {"hi", [](T a, T b) { return a > b; }},
          {"hs", [](T a, T b) { return a >= b; }}};
}
std::vector<Comparison<double>> float_comparisons() {
  std::vector<Comparison<double>> all = ordered<double>();
  for (const Comparison<double>&unordered :
       std::initializer_list<Comparison<double>>{{"equ", [](double a, double b) { return !(a < b || a > b); }},
                                                 {"neu", [](double a, double b) { return a != b; }},
                                                 {"ltu", [](double a, double b) { return !(a >= b); }},
                                                 {"leu", [](double a, double b) { return !(a > b); }},
                                                 {"gtu", [](double a, double b) { return !(a <= b); }},
                                                 {"geu", [](double a, double b) { return !(a < b); }},
                                                 {"num", [](double a, double b) { return !std::isnan(a) && !std::isnan(b); }},
                                                 {"nan", [](double a, double b) { return std::isnan(a) || std::isnan(b); }}})
    all.push_back(unordered);
  return all;
}

template <class T> void integers(const std::string& type) {
  std::vector<Comparison<T>> all = ordered<T>();
  if (type[0] == 'b') all.resize(2);
  if (type[0] == 'u')
    for (const Comparison<T>& c : unsigned_names<T>()) all.push_back(c);
  for (const Comparison<T>& c : all) row(text("setp.", c.name, ".", type), [c](T a, T b) { return c.holds(a, b); });
}

template <class T> void floats(const std::string& type) {
  for (const Comparison<double>& c : float_comparisons()) {
    auto holds = [c](T a, T b) { return c.holds(double(a), double(b)); };
    row(text("setp.", c.name, ".", type), holds);
    row(text("set.", c.name, ".u32.", type), [holds](T a, T b) { return holds(a, b) ? ~0u : 0u; });
    if constexpr (!std::is_same_v<T, float> && !std::is_same_v<T, double>) {
      const T one = T::round(1), zero{0};
      row(text("set.", c.name, ".", type, ".", type), [=](T a, T b) { return holds(a, b) ? one : zero; });
      row(text("set.", c.name, ".u32.", type, "x2"),
          [=](Two<T> a, Two<T> b) { return (holds(a.low, b.low) ? 0xffffu : 0) | (holds(a.high, b.high) ? 0xffff0000u : 0); });
      row(text("set.", c.name, ".", type, "x2.", type, "x2"),
          [=](Two<T> a, Two<T> b) { return Two<T>{holds(a.low, b.low) ? one : zero, holds(a.high, b.high) ? one : zero}; });
      row(text("{ .reg .pred %q; setp.", c.name, ".", type, "x2 %d|%q, %a, %b; }"),
          [=](Two<T> a, Two<T> b) { return holds(a.low, b.low); });
      row(text("{ .reg .pred %q; setp.", c.name, ".", type, "x2 %q|%d, %a, %b; }"),
          [=](Two<T> a, Two<T> b) { return holds(a.high, b.high); });
    } else {
      row(text("set.", c.name, ".f32.", type), [holds](T a, T b) { return holds(a, b) ? 1.0f : 0.0f; });
      if constexpr (std::is_same_v<T, float>)
        row(text("setp.", c.name, ".ftz.f32"), [c](float a, float b) { return c.holds(flush(a), flush(b)); });
    }
  }
}

template <class T> void selections(const std::string& type) {
  row("selp." + type, [](T a, T b, bool c) { return c ? a : b; });
}

void combined() {
  row("setp.lt.and.s32", [](int32_t a, int32_t b, bool c) { return a < b && c; });
  row("setp.lt.or.s32", [](int32_t a, int32_t b, bool c) { return a < b || c; });
  row("setp.lt.xor.s32", [](int32_t a, int32_t b, bool c) { return (a < b) != c; });
  row("setp.ge.and.f32 %d, %a, %b, !%c", [](float a, float b, bool c) { return a >= b && !c; });
  row("setp.neu.or.f64 %d, %a, %b, !%c", [](double a, double b, bool c) { return a != b || !c; });
  // The second destination is the complement of the comparison, combined alike.
  row("{ .reg .pred %q; setp.gt.s32 %q|%d, %a, %b; }", [](int32_t a, int32_t b) { return a <= b; });
  row("{ .reg .pred %q; setp.gt.and.s32 %q|%d, %a, %b, %c; }", [](int32_t a, int32_t b, bool c) { return a <= b && c; });
  row("{ .reg .pred %q; setp.gt.f32 %q|%d, %a, %b; }", [](float a, float b) { return !(a > b); });
  row("setp.gt.and.f32 %d|_, %a, %b, %c", [](float a, float b, bool c) { return a > b && c; });
  row("set.lt.and.u32.s32", [](int32_t a, int32_t b, bool c) { return a < b && c ? ~0u : 0u; });
  row("set.lt.u32.u32", [](uint32_t a, uint32_t b) { return a < b ? ~0u : 0u; });
  row("set.lt.s32.s64", [](int64_t a, int64_t b) { return a < b ? -1 : 0; });
  row("setp.lt.s32 %d, %a, 0", [](int32_t a) { return a < 0; });
  row("setp.gt.u32 %d, %a, -2", [](uint32_t a) { return a > 0xfffffffe; });
  row("setp.eq.s16 %d, %a, -1", [](int16_t a) { return a == -1; });
  row("setp.gt.f32 %d, %a, 0f7F000000", [](float a) { return a > 0x1p127f; });
}

}  // namespace

SUITE(comparisons) {
  integers<int16_t>("s16");
  integers<uint16_t>("u16");
  integers<uint16_t>("b16");
  integers<int32_t>("s32");
  integers<uint32_t>("u32");
  integers<uint32_t>("b32");
  integers<int64_t>("s64");
  integers<uint64_t>("u64");
  integers<uint64_t>("b64");
  floats<float>("f32");
  floats<double>("f64");
  floats<F16>("f16");
  floats<BF16>("bf16");
  combined();
  for (const char* t : {"s16", "u16", "b16"}) selections<uint16_t>(t);
  for (const char* t : {"s32", "u32", "b32", "f32"}) selections<uint32_t>(t);
  for (const char* t : {"s64", "u64", "b64", "f64"}) selections<uint64_t>(t);
  row("selp.b32 %d, %a, 7, %c", [](uint32_t a, uint32_t, bool c) { return c ? a : 7u; });
  row("slct.s32.s32", [](int32_t a, int32_t b, int32_t c) { return c >= 0 ? a : b; });
  row("slct.u64.s32", [](uint64_t a, uint64_t b, int32_t c) { return c >= 0 ? a : b; });
  row("slct.b32.f32", [](uint32_t a, uint32_t b, float c) { return c >= 0 ? a : b; });
}

}  // namespace ptxemu::test
