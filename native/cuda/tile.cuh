// Tiles of an operand on their way to the tensor core: global memory → 16-byte chunks in shared memory → fragments.
//
// A tile has kRows rows (of the product's M or N) and 64 bytes of k for each. It lies as its matrix does, in lines of 16-byte chunks:
//   plain       [kRows, depth]  a line is a row, k is contiguous
//   transposed  [depth, kRows]  a line is one k, rows are contiguous: read by ldmatrix.trans
// The chunks of a line are permuted so that neither writing a tile nor reading 8×8 matrices of it meets a bank twice.
#pragma once
#include "mma.cuh"
#include "vector.cuh"

namespace lorafuse::cuda {

constexpr int kThreads = 256;
constexpr int kLineBytes = 64;  // of k in a step of the main loop

template <class T> constexpr int kDepth = kLineBytes / sizeof(T);  // k's of a step

template <class T, int kRows> constexpr int kChunks = kRows * kLineBytes / 16;
template <class T, int kRows, bool kTransposed> constexpr int kLineChunks = kTransposed ? kRows / kVector<T> : kLineBytes / 16;

// Where chunk `chunk` of line `line` lies: 8 lines after each other, read at one chunk, cover all 32 banks.
template <int kPerLine> __device__ __forceinline__ int swizzle(int line, int chunk) {
  constexpr int kLinesPerWave = kPerLine < 8 ? 8 / kPerLine : 1;
  return line * kPerLine + (chunk ^ (line / kLinesPerWave & ((kPerLine < 8 ? kPerLine : 8) - 1)));
}

// A matrix in global memory. Elements are T or, for adapters, float; those are scaled and rounded to T when they are loaded.
struct Matrix {
  const void* data;
  int lines, length;  // `length` contiguous elements a line
  float scale;
  bool is_f32;     // elements are float, and T is not
  bool in_chunks;  // lines are aligned and hold whole chunks; a scale is for f32 only
};

// The v-th chunk of a tile that this thread moves.
__device__ __forceinline__ unsigned chunk_of_thread(int v) { return v * kThreads + threadIdx.x; }

// One 8-byte shared store: nvcc splits some float2 assignments in two, and the halves conflict in banks.
__device__ __forceinline__ void store_pair(float* to, float a, float b) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(shared_address(to)), "f"(a), "f"(b) : "memory");
}

// A chunk of the elements f(0) … f(kVector − 1), each a T. It is made word by word, because its callers have few registers left.
template <class T, class F> __device__ __forceinline__ uint4 gather_chunk(F f) {
  uint4 chunk{};
#pragma unroll 1
  for (int e = 0; e < kVector<T>; e += 4 / sizeof(T)) {
    union {
      uint32_t bits;
      T elements[4 / sizeof(T)];
    } word;
#pragma unroll
    for (int i = 0; i < static_cast<int>(4 / sizeof(T)); i++) word.elements[i] = f(e + i);
    chunk = {chunk.y, chunk.z, chunk.w, word.bits};
  }
  return chunk;
}

// Where a loader's chunk goes: copy() one from global memory, zeros where it is not `there`, or put() one made of converted elements.
struct ToRegister {
  uint4& chunk;
  __device__ __forceinline__ void copy(const void* from, bool there) const {
    asm("{\n.reg .pred there;\nsetp.ne.s32 there, %5, 0;\nmov.b32 %0, 0;\nmov.b32 %1, 0;\nmov.b32 %2, 0;\nmov.b32 %3, 0;\n"
        "@there ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
        : "=&r"(chunk.x), "=&r"(chunk.y), "=&r"(chunk.z), "=&r"(chunk.w)
        : "l"(from), "r"(static_cast<int>(there)));
  }
  __device__ __forceinline__ void put(uint4 value) const { chunk = value; }
};
struct ToShared {
  uint4* chunk;
  __device__ __forceinline__ void copy(const void* from, bool there) const {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(chunk)), "l"(from), "r"(there ? 16 : 0) : "memory");
  }
  __device__ __forceinline__ void put(uint4 value) const { *chunk = value; }
};

// This thread's share of an operand's tiles, advanced along K by incrementing addresses. Only for rows of whole, aligned 16-byte chunks.
// `k` is the first of the step.
template <class T, int kRows> class Walk {
 public:
  __device__ __forceinline__ void begin(const Matrix& m, bool transposed, int row, int k) {
    const int r = row + (transposed ? threadIdx.x % kLine * kVector<T> : threadIdx.x / 4);
    at_ = transposed ? k_of_thread(true, k) * m.length + r : r * m.length + k_of_thread(false, k);
    inside_ = 0;
#pragma unroll
    for (int v = 0; v < kShare; v++) inside_ |= (transposed ? r < m.length : r + v * (kThreads / 4) < m.lines) << v;
  }
  template <class To> __device__ __forceinline__ void copy(const Matrix& m, bool transposed, int k, int v, const To& to) const {
    const int lines = v * (transposed ? kThreads / kLine : kThreads / 4);  // from this thread's first chunk to this one
    const int first = k_of_thread(transposed, k);
    const bool there = (inside_ >> v & 1) && (transposed ? first + lines < m.lines : first < m.length);
    to.copy(static_cast<const T*>(m.data) + at_ + lines * m.length, there);
  }
  __device__ __forceinline__ void next(const Matrix& m, bool transposed) { at_ += transposed ? kDepth<T> * m.length : kDepth<T>; }

 private:
  static constexpr int kLine = kLineChunks<T, kRows, true>, kShare = ceil_div(kChunks<T, kRows>, kThreads);
  static __device__ __forceinline__ int k_of_thread(bool transposed, int k) {
    return k + (transposed ? threadIdx.x / kLine : threadIdx.x % 4 * kVector<T>);
  }
  int at_;
  unsigned inside_;  // bit v: the rows of chunk v are the matrix's
};

// Elements `first` … of a line of floats, scaled and rounded to T; zeros beyond the matrix.
template <class T, class To> __device__ __forceinline__ void fetch_floats(const Matrix& m, int line, int first, const To& to) {
  if (line >= m.lines || first >= m.length) return to.put(uint4{});
  const float* from = static_cast<const float*>(m.data) + line * m.length + first;
  if (!m.in_chunks)
    return to.put(gather_chunk<T>([&](int e) { return first + e < m.length ? from_float<T>(from[e] * m.scale) : from_float<T>(0); }));
  const float4 low = __ldg(reinterpret_cast<const float4*>(from)), high = __ldg(reinterpret_cast<const float4*>(from) + 1);
  const float all[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  Chunk<T, 8> chunk;
#pragma unroll
  for (int e = 0; e < 8; e++) chunk.elements[e] = from_float<T>(all[e] * m.scale);
  to.put(chunk.bits);
}

// The same for a matrix of any kind.
template <class T, class To> __device__ __forceinline__ void fetch(const Matrix& m, int line, int first, const To& to) {
  if constexpr (sizeof(T) == 2)
    if (m.is_f32) return fetch_floats<T>(m, line, first, to);
  if (line >= m.lines || first >= m.length) return to.put(uint4{});
  const T* from = static_cast<const T*>(m.data) + line * m.length + first;
  if (m.in_chunks) return to.copy(from, true);
  to.put(gather_chunk<T>([&](int e) { return first + e < m.length ? from_float<T>(to_float(from[e]) * m.scale) : from_float<T>(0); }));
}

// The v-th chunk that this thread moves of a transposed tile from `row` and `k` on.
template <class T, int kRows, class To>
__device__ __forceinline__ void fetch_transposed(const Matrix& m, int row, int k, int v, const To& to) {
  const unsigned q = chunk_of_thread(v);
  constexpr int kLine = kLineChunks<T, kRows, true>;
  fetch<T>(m, k + q / kLine, row + q % kLine * kVector<T>, to);
}

// Reads fragments of a tile: four 8×8 matrices of 16-bit elements, rows r … r+7 and r+8 … r+15 at k … k+7, then both at k+8 … k+15.
// They are a0 ‖ a1 of mma16(), or b of two: {f[0], f[2]} and {f[1], f[3]}.
template <class T, int kRows, bool kTransposed> class FragmentReader {
 public:
  // `row`, a multiple of the rows this warp reads, is the first of them.
  __device__ __forceinline__ FragmentReader(const uint4* tile, int row) {
    const int lane = threadIdx.x % 32, r = lane % 8, low = lane / 8 % 2, high = lane / 16;
    const int line = kTransposed ? high * 8 + r : row + low * 8 + r, chunk = kTransposed ? row / 8 + low : high;
    address_ = shared_address(tile) + swizzle<kPerLine>(line, chunk) * 16;
  }

  // The 16 rows from row + 16·i, the 16 k from 16·step: what is added to line or chunk permutes as an exclusive or.
  __device__ __forceinline__ void load(int i, int step, uint32_t (&f)[4]) const {
    const int along = kTransposed ? i : step, lines = kTransposed ? step : i;
    load_matrices<kTransposed>(f, (address_ ^ along * 32) + lines * 16 * kPerLine * 16);
  }

 private:
  static constexpr int kPerLine = kLineChunks<T, kRows, kTransposed>;
  uint32_t address_;
};

}  // namespace lorafuse::cuda
