// mma.sync, ldmatrix, movmatrix (PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions"): fragments of m16n8k8 and m16n8k16.
// Lane l = 4 g + t holds: a[i] rows g (+8 for odd i), columns 2t, 2t+1 (+8 for i >= 2); b[i] rows 2t, 2t+1 (+8 i), column g;
// c, d rows g (0, 1) and g + 8 (2, 3), columns 2t, 2t+1.
#include "half.h"
#include "memory.h"
#include "select.h"
#include "truncated.h"

namespace ptxemu {
namespace {

void need_all_lanes(Warp& w, uint32_t mask) {
  if (mask == all_lanes) return;
  fail(w, ErrorKind::divergence, "an instruction of the whole warp executed by a part of it", mask ? std::countr_zero(mask) : -1);
}

template <bool bf16, int k_size> void multiply(Warp& w, const Instruction& in, const float (&c)[16][8], float (&d)[16][8]) {
  constexpr int slices = k_size / 8;
  alignas(32) float a[16][k_size], b[k_size][8];
  alignas(32) float low[32], high[32];
  for (int i = 0; i < 2 * slices; i++) {
    const uint32_t* r = lanes<uint32_t>(w, in.from(i));
    widen_half<bf16>(r, 0, low);
    widen_half<bf16>(r, 1, high);
    const int row = i % 2 * 8, column = i / 2 * 8;
    for (int l = 0; l < 32; l++) {
      a[row + l / 4][column + l % 4 * 2] = low[l];
      a[row + l / 4][column + l % 4 * 2 + 1] = high[l];
    }
  }
  for (int i = 0; i < slices; i++) {
    const uint32_t* r = lanes<uint32_t>(w, in.from(2 * slices + i));
    widen_half<bf16>(r, 0, low);
    widen_half<bf16>(r, 1, high);
    for (int l = 0; l < 32; l++) {
      b[i * 8 + l % 4 * 2][l / 4] = low[l];
      b[i * 8 + l % 4 * 2 + 1][l / 4] = high[l];
    }
  }
  if (w.block->options->mma == MmaRounding::truncated) {
    const int group = w.block->gpu->compute_capability < 80 ? 4 : 8;
    for (int m = 0; m < 16; m++) {
      std::copy(c[m], c[m] + 8, d[m]);
      for (int k = 0; k < k_size; k += group) sum_truncated_8(&a[m][k], &b[k], group, d[m], d[m]);
    }
    return;
  }
  for (int m = 0; m < 16; m++) {
    __m256 sum = _mm256_load_ps(c[m]);
    for (int k = 0; k < k_size; k++) sum = _mm256_fmadd_ps(_mm256_set1_ps(a[m][k]), _mm256_load_ps(b[k]), sum);
    _mm256_store_ps(d[m], sum);
  }
}

template <bool bf16, int k_size, bool half_accumulator> void mma(Warp& w, const Instruction& in, uint32_t mask) {
  need_all_lanes(w, mask);
  constexpr int slices = k_size / 8, first_c = 3 * slices;
  w.block->counters->mma_k8 += slices;
  alignas(32) float c[16][8], d[16][8];
  if constexpr (half_accumulator) {  // c[i] = row g + 8 i, both columns in one register
    alignas(32) float low[32], high[32];
    for (int i = 0; i < 2; i++) {
      widen_half<false>(lanes<uint32_t>(w, in.from(first_c + i)), 0, low);
      widen_half<false>(lanes<uint32_t>(w, in.from(first_c + i)), 1, high);
      for (int l = 0; l < 32; l++) c[i * 8 + l / 4][l % 4 * 2] = low[l], c[i * 8 + l / 4][l % 4 * 2 + 1] = high[l];
    }
  } else {
    for (int i = 0; i < 2; i++) {
      const float *even = lanes<float>(w, in.from(first_c + i * 2)), *odd = lanes<float>(w, in.from(first_c + i * 2 + 1));
      for (int g = 0; g < 8; g++) {
        const __m128 e = _mm_loadu_ps(even + g * 4), o = _mm_loadu_ps(odd + g * 4);
        _mm_store_ps(&c[i * 8 + g][0], _mm_unpacklo_ps(e, o));
        _mm_store_ps(&c[i * 8 + g][4], _mm_unpackhi_ps(e, o));
      }
    }
  }
  multiply<bf16, k_size>(w, in, c, d);
  if constexpr (half_accumulator) {
    alignas(32) float low[32], high[32];
    alignas(32) uint32_t half[2][32];
    for (int i = 0; i < 2; i++) {
      for (int l = 0; l < 32; l++) low[l] = d[i * 8 + l / 4][l % 4 * 2], high[l] = d[i * 8 + l / 4][l % 4 * 2 + 1];
      narrow_half<false>(low, half[0]);
      narrow_half<false>(high, half[1]);
      uint32_t* to = lanes<uint32_t>(w, in.to(i));
      for (int l = 0; l < 32; l++) to[l] = half[0][l] | half[1][l] << 16;
    }
  } else {
    for (int i = 0; i < 2; i++) {
      float *even = lanes<float>(w, in.to(i * 2)), *odd = lanes<float>(w, in.to(i * 2 + 1));
      for (int g = 0; g < 8; g++) {
        const __m128 l = _mm_load_ps(&d[i * 8 + g][0]), h = _mm_load_ps(&d[i * 8 + g][4]);
        _mm_storeu_ps(even + g * 4, _mm_shuffle_ps(l, h, 0x88));
        _mm_storeu_ps(odd + g * 4, _mm_shuffle_ps(l, h, 0xdd));
      }
    }
  }
}

void decode_mma(Decoder& d) {
  const auto& p = d.parts();  // mma sync aligned shape row col dtype atype btype ctype
  if (p.size() != 10 || p[1] != "sync" || p[4] != "row" || p[5] != "col") d.unknown();
  const bool k16 = p[3] == "m16n8k16", half_accumulator = p[6] == "f16", bf16 = p[7] == "bf16";
  if ((!k16 && p[3] != "m16n8k8") || p[7] != p[8] || p[6] != p[9] || (p[6] != "f32" && p[6] != "f16") || (p[7] != "f16" && !bf16) ||
      (bf16 && half_accumulator))
    d.unknown();
  d.expect_operands(4);
  const Type sum = half_accumulator ? Type::b32 : Type::f32;
  const size_t expected[] = {half_accumulator ? 2u : 4u, k16 ? 4u : 2u, k16 ? 2u : 1u, half_accumulator ? 2u : 4u};
  for (size_t i = 0; i < 4; i++) {
    auto elements = Decoder::elements(d.operand(i));
    if (elements.size() != expected[i]) d.unknown();
    for (auto e : elements) {
      if (i == 0) d.target(e, sum);
      else d.source(e, i == 3 ? sum : Type::b32);
    }
  }
  d.emit(bf16               ? (k16 ? mma<true, 16, false> : mma<true, 8, false>)
         : half_accumulator ? (k16 ? mma<false, 16, true> : mma<false, 8, true>)
         : k16              ? mma<false, 16, false>
                            : mma<false, 8, false>);
}

// Rows of 16 bytes: lane 8 j + i gives the address of row i of matrix j. Lane l gets row l / 4, columns 2 (l % 4) and the next.
template <int count, bool transposed> void load_matrices(Warp& w, const Instruction& in, uint32_t mask) {
  need_all_lanes(w, mask);
  Block& b = *w.block;
  Addresses a;
  read_addresses(w, in, 0, a);
  for (auto& address : a.of)
    if ((address & window_mask) == shared_window) address &= ~window_mask;
  constexpr uint32_t named = count == 4 ? all_lanes : (1u << (8 * count)) - 1;
  if (b.options->counters) count_shared(b, a, named, 16);
  alignas(32) uint16_t rows[8 * count][8];
  for (int r = 0; r < 8 * count; r++) {
    shared_bytes(w, a.of[r], 16, r);
    if (a.of[r] % 16) fail_misaligned(w, "shared", a.of[r], 16, r);
  }
  for (int r = 0; r < 8 * count; r++) {
    const char* p = b.shared.data() + a.of[r];
    check_shared<Access::read>(w, uint32_t(a.of[r]), 16, r);
    std::memcpy(rows[r], p, 16);
  }
  for (int j = 0; j < count; j++) {
    uint32_t* d = lanes<uint32_t>(w, in.to(j));
    if constexpr (transposed) {
      for (int l = 0; l < 32; l++) d[l] = rows[8 * j + l % 4 * 2][l / 4] | uint32_t(rows[8 * j + l % 4 * 2 + 1][l / 4]) << 16;
    } else {
      std::memcpy(d, rows[8 * j], 128);
    }
  }
}

template <int count, bool transposed> void store_matrices(Warp& w, const Instruction& in, uint32_t mask) {
  need_all_lanes(w, mask);
  Block& b = *w.block;
  Addresses a;
  read_addresses(w, in, 0, a);
  for (auto& address : a.of)
    if ((address & window_mask) == shared_window) address &= ~window_mask;
  if (b.options->counters) count_shared(b, a, count == 4 ? all_lanes : (1u << (8 * count)) - 1, 16);
  for (int r = 0; r < 8 * count; r++) {
    const uint32_t* s = lanes<uint32_t>(w, in.from(1 + r / 8));
    uint16_t row[8];
    const int i = r % 8;
    for (int k = 0; k < 8; k++)
      row[k] = transposed ? uint16_t(s[k * 4 + i / 2] >> (i % 2 * 16)) : uint16_t(s[i * 4 + k / 2] >> (k % 2 * 16));
    char* p = shared_bytes(w, a.of[r], 16, r);
    if (a.of[r] % 16) fail_misaligned(w, "shared", a.of[r], 16, r);
    check_shared<Access::write>(w, uint32_t(a.of[r]), 16, r, row);
    std::memcpy(p, row, 16);
  }
}

void move_matrix(Warp& w, const Instruction& in, uint32_t mask) {  // transposes one 8 x 8 matrix
  need_all_lanes(w, mask);
  uint16_t m[8][8];
  std::memcpy(m, lanes<uint32_t>(w, in.from(0)), sizeof m);
  uint32_t* d = lanes<uint32_t>(w, in.to(0));
  for (int l = 0; l < 32; l++) d[l] = m[l % 4 * 2][l / 4] | uint32_t(m[l % 4 * 2 + 1][l / 4]) << 16;
}

template <bool store> Handler pick_matrices(size_t count, bool transposed) {
  auto of = [&]<int n>() -> Handler {
    if constexpr (store) return transposed ? store_matrices<n, true> : store_matrices<n, false>;
    else return transposed ? load_matrices<n, true> : load_matrices<n, false>;
  };
  return count == 1   ? of.template operator()<1>()
         : count == 2 ? of.template operator()<2>()
         : count == 4 ? of.template operator()<4>()
                      : nullptr;
}

void decode_matrices(Decoder& d) {
  const bool store = d.part(0) == "stmatrix";
  if (!d.has("m8n8") || !d.has("b16") || !d.has("sync")) d.unknown();
  d.expect_operands(2);
  auto elements = Decoder::elements(d.operand(store));
  if (!d.has(elements.size() == 1 ? "x1" : elements.size() == 2 ? "x2" : "x4")) d.unknown();
  if (!store)
    for (auto e : elements) d.target(e, Type::b32);
  d.address(d.operand(!store), Space::shared);
  if (store)
    for (auto e : elements) d.source(e, Type::b32);
  d.note_shared_access(16);
  d.emit(store ? pick_matrices<true>(elements.size(), d.has("trans")) : pick_matrices<false>(elements.size(), d.has("trans")));
}

void decode_move_matrix(Decoder& d) {
  d.expect_operands(2);
  if (!d.has("trans") || !d.has("b16")) d.unknown();
  d.target(0, Type::b32);
  d.source(1, Type::b32);
  d.emit(move_matrix);
}

}  // namespace

void add_matrix(Table& t) {
  t["mma"] = decode_mma;
  t["ldmatrix"] = t["stmatrix"] = decode_matrices;
  t["movmatrix"] = decode_move_matrix;
}

}  // namespace ptxemu
