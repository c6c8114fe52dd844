// The accumulators of a block's tile [M, N]: they multiply one step of both operands, and hand out their sums row by row.
#pragma once
#include "tile.cuh"

namespace lorafuse::cuda {

// On tensor cores: 8 warps, kWarpsM of them side by side in M. Tensor cores truncate sums to 24 bits instead of rounding them; where the
// result stays f32 (kShortSums), each step is summed by itself and added in f32.
// kOnlyChunks: the matrices must be in chunks. Large tiles leave no registers for any other case.
template <class T, int kM, int kN, int kWarpsM, bool kOnlyChunks, bool kShortSums = false> struct TensorCoreTile {
  using Element = T;
  static constexpr int kRows = kM, kColumns = kN;
  static constexpr bool kInChunks = kOnlyChunks;
  static constexpr int kWarpRows = kM / kWarpsM, kWarpColumns = kN / (kThreads / 32 / kWarpsM);
  static_assert(kWarpRows % 16 == 0 && kWarpColumns % 16 == 0);

  float sum[kWarpRows / 16][kWarpColumns / 8][4] = {};

  // Where this warp's part of the tile begins.
  static __device__ __forceinline__ int row() { return threadIdx.x / 32 % kWarpsM * kWarpRows; }
  static __device__ __forceinline__ int column() { return threadIdx.x / 32 / kWarpsM * kWarpColumns; }

  // Multiplies the first `k` of a step, a multiple of 16.
  template <bool kTransposedA, bool kTransposedB>
  __device__ __forceinline__ void multiply_step(const uint4* a, const uint4* b, int k = kDepth<T>) {
    float part[kWarpRows / 16][kWarpColumns / 8][4] = {};
    auto& to = kShortSums ? part : sum;
    const FragmentReader<T, kM, kTransposedA> from_a(a, row());
    const FragmentReader<T, kN, kTransposedB> from_b(b, column());
#pragma unroll 1  // unrolled, fragments of two steps do not fit the registers
    for (int step = 0; step < k / 16; step++) {
      uint32_t fb[kWarpColumns / 16][4];
#pragma unroll
      for (int j = 0; j < kWarpColumns / 16; j++) from_b.load(j, step, fb[j]);
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; i++) {
        uint32_t fa[4];
        from_a.load(i, step, fa);
#pragma unroll
        for (int j = 0; j < kWarpColumns / 8; j++)
          mma16<T>(to[i][j], {fa[0], fa[1]}, {fa[2], fa[3]}, fb[j / 2][j % 2], fb[j / 2][j % 2 + 2]);
      }
    }
    if constexpr (kShortSums) {
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; i++)
#pragma unroll
        for (int j = 0; j < kWarpColumns / 8; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) sum[i][j][e] += part[i][j][e];
    }
  }

  // Takes the columns from `first` out of the sums, which restart at zero there: scaled and rounded, they become operand a of steps that
  // lie `stride` chunks apart.
  __device__ __forceinline__ void take_columns(int first, float scale, uint4* a, int stride) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < kWarpColumns / 8; j++) {
      const int k = column() + 8 * j - first;  // multiples of 8
      if (k < 0) continue;
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; i++)
#pragma unroll
        for (int low = 0; low < 2; low++) {
          uint4* chunk = a + k / kDepth<T> * stride + swizzle<kLineBytes / 16>(row() + 16 * i + lane / 4 + 8 * low, k % kDepth<T> / 8);
          Chunk<T, 2> pair;
#pragma unroll
          for (int e = 0; e < 2; e++) pair.elements[e] = from_float<T>(sum[i][j][2 * low + e] * scale), sum[i][j][2 * low + e] = 0;
          reinterpret_cast<uint32_t*>(chunk)[lane % 4] = pair.bits;
        }
    }
  }

  // Stores the columns from `first`, scaled, to the first `rows` rows of global memory, `pitch` apart.
  __device__ __forceinline__ void store_columns(int first, float scale, float* to, int rows, int pitch) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < kWarpColumns / 8; j++) {
      const int k = column() + 8 * j - first;
      if (k < 0) continue;
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; i++)
#pragma unroll
        for (int low = 0; low < 2; low++) {
          const int r = row() + 16 * i + lane / 4 + 8 * low;
          const float2 pair = {sum[i][j][2 * low] * scale, sum[i][j][2 * low + 1] * scale};
          if (r < rows) *reinterpret_cast<float2*>(to + r * pitch + k + lane % 4 * 2) = pair;
        }
    }
  }

  // Calls f(row, column, kCount values of that row); kCount is 4, 8 or 16. `scratch`: the block's shared memory, which nobody reads any
  // more.
  static constexpr int kScratchBytes = kThreads / 32 * 16 * kWarpColumns * sizeof(float);
  template <int kCount, class F> __device__ __forceinline__ void for_each_output(uint4* scratch, F f) const {
    constexpr int kGroups = kWarpColumns / 8;  // of 8 floats in a row
    constexpr int kRowsPerWave = kGroups < 4 ? 4 / kGroups : 1;
    float* rows = reinterpret_cast<float*>(scratch) + threadIdx.x / 32 * 16 * kWarpColumns;  // [16, kWarpColumns], groups permuted
    const auto slot_of = [](int r, int group, int half) {
      const int turn = r / kRowsPerWave;
      return r * kWarpColumns + (group ^ (turn & ((kGroups < 4 ? kGroups : 4) - 1))) * 8 + (half ^ ((turn ^ turn / 2) & 1)) * 4;
    };
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kWarpRows / 16; i++) {
#pragma unroll
      for (int j = 0; j < kGroups; j++)
#pragma unroll
        for (int low = 0; low < 2; low++) {
          store_pair(rows + slot_of(lane / 4 + 8 * low, j, lane % 4 / 2) + lane % 2 * 2, sum[i][j][2 * low], sum[i][j][2 * low + 1]);
        }
      __syncwarp();
#pragma unroll
      for (int part = 0; part < 16 * kWarpColumns / kCount / 32; part++) {
        constexpr int kPerRow = kWarpColumns / kCount;
        const int r = (part * 32 + lane) / kPerRow, c = lane % kPerRow * kCount;
        float v[kCount];
#pragma unroll
        for (int e = 0; e < kCount; e += 4) {
          const float4 q = *reinterpret_cast<const float4*>(rows + slot_of(r, (c + e) / 8, (c + e) / 4 % 2));
          v[e] = q.x, v[e + 1] = q.y, v[e + 2] = q.z, v[e + 3] = q.w;
        }
        f(row() + 16 * i + r, column() + c, v);
      }
      __syncwarp();
    }
  }
};

// In plain f32: thread (i, j) of 16 × 16 has rows i + 16·r and columns j + 16·c.
template <int kM, int kN, bool kOnlyChunks> struct FloatTile {
  using Element = float;
  static constexpr int kRows = kM, kColumns = kN;
  static constexpr bool kInChunks = kOnlyChunks;
  static constexpr int kScratchBytes = 0;

  float sum[kM / 16][kN / 16] = {};

  template <bool kTransposedA, bool kTransposedB>
  __device__ __forceinline__ void multiply_step(const uint4* a, const uint4* b, int = kDepth<float>) {
#pragma unroll 1
    for (int k = 0; k < kDepth<float>; k += 4) {
      float fb[kN / 16][4];
#pragma unroll
      for (int j = 0; j < kN / 16; j++) load4<kN, kTransposedB>(b, threadIdx.x % 16 + 16 * j, k, fb[j]);
#pragma unroll
      for (int i = 0; i < kM / 16; i++) {
        float fa[4];
        load4<kM, kTransposedA>(a, threadIdx.x / 16 + 16 * i, k, fa);
#pragma unroll
        for (int j = 0; j < kN / 16; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) sum[i][j] = fmaf(fa[e], fb[j][e], sum[i][j]);
      }
    }
  }

  template <int, class F> __device__ __forceinline__ void for_each_output(uint4*, F f) const {
#pragma unroll
    for (int i = 0; i < kM / 16; i++)
#pragma unroll
      for (int j = 0; j < kN / 16; j++) {
        float v[1] = {sum[i][j]};
        f(static_cast<int>(threadIdx.x / 16) + 16 * i, static_cast<int>(threadIdx.x % 16) + 16 * j, v);
      }
  }

 private:
  template <int kRowsOf, bool kTransposed> static __device__ __forceinline__ void load4(const uint4* tile, int r, int k, float (&f)[4]) {
    if constexpr (kTransposed) {
#pragma unroll
      for (int e = 0; e < 4; e++)
        f[e] = reinterpret_cast<const float*>(tile + swizzle<kLineChunks<float, kRowsOf, true>>(k + e, r / 4))[r % 4];
    } else {
      const float4 q = reinterpret_cast<const float4&>(tile[swizzle<kLineChunks<float, kRowsOf, false>>(r, k / 4)]);
      f[0] = q.x, f[1] = q.y, f[2] = q.z, f[3] = q.w;
    }
  }
};

}  // namespace lorafuse::cuda
