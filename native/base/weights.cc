#include "weights.h"

#include <cstring>

#include "floats.h"

namespace lorafuse {
namespace {

// Element i in the file, which may hold it unaligned.
template <class From> From element(const unsigned char* data, int64_t i) {
  From x;
  std::memcpy(&x, data + i * sizeof(From), sizeof(From));
  return x;
}

// to[tap, i] = from[i, tap]: the taps of a convolution move from the innermost place to the outermost.
template <class From, class To> void repack(const unsigned char* from, To* to, int64_t matrix, int64_t taps) {
  for (int64_t i = 0; i < matrix; i++)
    for (int64_t tap = 0; tap < taps; tap++) {
      const From x = element<From>(from, i * taps + tap);
      if constexpr (std::is_same_v<From, To>) to[tap * matrix + i] = x;  // NaNs keep their bits
      else to[tap * matrix + i] = narrow<To>(widen(x));
    }
}

// to[4·i + j, c, n] = Σ from[n, c, row, column] over rows 2 − i, 3 − i and columns 2 − j, 3 − j, in f32.
template <class From, class To> void sum_taps(const unsigned char* from, To* to, int64_t outputs, int64_t inputs) {
  for (int64_t c = 0; c < inputs; c++)
    for (int64_t n = 0; n < outputs; n++) {
      float sums[16] = {};
      for (int tap = 0; tap < 9; tap++) {
        const float x = widen(element<From>(from, (n * inputs + c) * 9 + tap));
        for (int i = 2 - tap / 3; i <= 3 - tap / 3; i++)
          for (int j = 2 - tap % 3; j <= 3 - tap % 3; j++) sums[4 * i + j] += x;
      }
      for (int tap = 0; tap < 16; tap++) to[(tap * inputs + c) * outputs + n] = narrow<To>(sums[tap]);
    }
}

// Calls f with a float of the type that the file has.
template <class F> void with_stored(const WeightEntry& entry, F&& f) {
  if (entry.eight == Eight::e4m3) f(E4m3{});
  else if (entry.eight == Eight::e5m2) f(E5m2{});
  else with_float(entry.dtype, f);
}

}  // namespace

void Weights::add(const std::string& path, const std::vector<WeightEntry>& entries) {
  const Mapping& mapping = *mappings_.emplace_back(std::make_unique<Mapping>(path));
  const size_t size = mapping.size();
  for (const WeightEntry& e : entries) {
    const size_t bytes = e.bytes();
    CHECK(e.offset <= size && bytes <= size - e.offset, "WEIGHTS_TRUNCATED", "Expected tensor ", e.name, " at bytes ", e.offset, "…",
          e.offset + bytes, " of ", path, " but the file ends at ", size);
    entries_[e.name] = Entry{e, &mapping, mapping.data() + e.offset, nullptr, {}, {}};
  }
}

const WeightEntry* Weights::find(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &found->second.info;
}

DType Weights::dtype(const std::string& name, Form form) const {
  const WeightEntry& entry = entries_.at(name).info;
  if (form == Form::summed_taps) return types_.matrices.value_or(DType::f32);
  return (entry.shape.rank() < 2 ? types_.vectors : types_.matrices).value_or(entry.dtype);
}

bool Weights::in_place(const std::string& name, DType dtype, Form form) const {
  const Entry& e = entries_.at(name);
  return form == Form::as_is && e.info.eight == Eight::none && dtype == e.info.dtype &&
         reinterpret_cast<uintptr_t>(e.data) % size_of(dtype) == 0;
}

Tensor Weights::get(const std::string& name, DType dtype, const Shape& shape, Form form) {
  Entry& e = entries_.at(name);
  if (e.ready.data) {
    CHECK(e.form == form && e.ready.dtype == dtype, "INTERNAL", "Expected one form of tensor ", name, " but two are asked for");
    return e.ready;
  }
  e.form = form;
  if (in_place(name, dtype, form)) return e.ready = {const_cast<unsigned char*>(e.data), dtype, shape};

  const Shape& s = e.info.shape;
  e.copy.reset(new unsigned char[shape.elements() * size_of(dtype)]);
  const int64_t taps = form == Form::taps_first ? s[2] * s[3] : 1;
  with_stored(e.info, [&]<class From>(From) {
    with_float(dtype, [&]<class To>(To) {
      auto* to = reinterpret_cast<To*>(e.copy.get());
      if (form == Form::summed_taps) sum_taps<From>(e.data, to, s[0], s[1]);
      else repack<From>(e.data, to, s.elements() / taps, taps);
    });
  });
  e.mapping->release(e.data, e.data + e.info.bytes());  // those pages are not read again
  return e.ready = {e.copy.get(), dtype, shape};
}

void Weights::release(const std::string& name) {
  Entry& e = entries_.at(name);
  e.copy.reset();
  e.ready = {};
}

void Weights::release() {
  for (auto& [name, e] : entries_) release(name);
  for (const auto& mapping : mappings_) mapping->release();
}

void Weights::check() const {
  for (const auto& mapping : mappings_) mapping->check();
}

}  // namespace lorafuse
