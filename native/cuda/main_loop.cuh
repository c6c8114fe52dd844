// The main loop: the tiles of the next steps travel from global to shared memory while the sums take in those of this one.
// sm_75: through registers, one step ahead. sm_80 and newer: cp.async, two steps ahead. One barrier a step.
#pragma once
#include "accumulators.cuh"

namespace lorafuse::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
constexpr int kStages = 3;
#else
constexpr int kStages = 2;
#endif

// The tiles of kStages steps, a before b; free for other uses between runs of the loop.
template <class Tile> struct Buffers {
  using T = typename Tile::Element;
  static constexpr int kA = kChunks<T, Tile::kRows>, kB = kChunks<T, Tile::kColumns>, kStride = kA + kB;
  static_assert(2 * kStride * sizeof(uint4) >= Tile::kScratchBytes);
  __align__(256) uint4 chunks[kStages][kStride];
};

// Where this thread's first chunk goes in a tile; kThreads chunks, to its next one, are whole periods of 8 lines.
template <class T, int kRows, bool kTransposed> __device__ __forceinline__ int first_slot() {
  constexpr int kLine = kLineChunks<T, kRows, kTransposed>;
  return swizzle<kLine>(threadIdx.x / kLine, threadIdx.x % kLine);
}

// Calls f(v) for the chunks that this thread moves of an operand with kCount.
template <int kCount, class F> __device__ __forceinline__ void for_each_chunk(F f) {
#pragma unroll
  for (int v = 0; v < ceil_div(kCount, kThreads); v++)
    if (kCount % kThreads == 0 || chunk_of_thread(v) < kCount) f(v);
}

template <class Tile, class Loader> __device__ __forceinline__ void multiply_step(Tile& tile, const Loader&, const uint4* step,
                                                                                  bool transposed_b,
                                                                                  int k = kDepth<typename Tile::Element>) {
  const uint4* b = step + Buffers<Tile>::kA;
  if (transposed_b) tile.template multiply_step<Loader::transposed_a(), true>(step, b, k);
  else tile.template multiply_step<Loader::transposed_a(), false>(step, b, k);
}

// Where the v-th chunk goes that this thread moves of b. A loader may have its own order.
template <class Loader> __device__ __forceinline__ int slot_of(const Loader& loader, int v) {
  using Tile = typename Loader::Tile;
  using T = typename Tile::Element;
  constexpr int kA = Buffers<Tile>::kA, kColumns = Tile::kColumns;
  if constexpr (requires { Loader::slot_b(v); }) return kA + Loader::slot_b(v);
  else return kA + (loader.transposed_b() ? first_slot<T, kColumns, true>() : first_slot<T, kColumns, false>()) + v * kThreads;
}

// `count` steps from where the loader stands. The buffers are free when it begins, and when it ends.
template <class Tile, class Loader>
__device__ __forceinline__ void multiply_steps(Tile& tile, Loader& loader, int count, Buffers<Tile>& shared) {
  using T = typename Tile::Element;
  constexpr int kA = Buffers<Tile>::kA, kB = Buffers<Tile>::kB;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const auto begin = [&](uint4* to) {
    for_each_chunk<kB>([&](int v) { loader.b(v, ToShared{to + slot_of(loader, v)}); });
    for_each_chunk<kA>([&](int v) { loader.a(v, ToShared{to + first_slot<T, Tile::kRows, Loader::transposed_a()>() + v * kThreads}); });
  };
  unsigned transposed_b = 0;  // bit i: of the i-th step from now
#pragma unroll
  for (int i = 0; i < kStages - 1; i++) {
    if (i < count) {
      if (i > 0) loader.next();
      transposed_b |= loader.transposed_b() << i;
      begin(shared.chunks[i]);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  int now = 0, next = kStages - 1;
  for (int i = 0; i < count; i++) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
    __syncthreads();  // all of this step is there, and nobody reads the one before
    if (i + kStages - 1 < count) {
      loader.next();
      transposed_b |= loader.transposed_b() << (kStages - 1);
      begin(shared.chunks[next]);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    multiply_step(tile, loader, shared.chunks[now], transposed_b & 1);
    transposed_b >>= 1;
    now = now + 1 == kStages ? 0 : now + 1;
    next = next + 1 == kStages ? 0 : next + 1;
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
#else
  uint4 a[ceil_div(kA, kThreads)], b[ceil_div(kB, kThreads)];
  const auto load = [&] {
    for_each_chunk<kA>([&](int v) { loader.a(v, ToRegister{a[v]}); });
    for_each_chunk<kB>([&](int v) { loader.b(v, ToRegister{b[v]}); });
  };
  const auto store = [&](uint4* to) {
    for_each_chunk<kA>([&](int v) { to[first_slot<T, Tile::kRows, Loader::transposed_a()>() + v * kThreads] = a[v]; });
    for_each_chunk<kB>([&](int v) { to[slot_of(loader, v)] = b[v]; });
  };
  if (count > 0) {
    load();
    store(shared.chunks[0]);
    __syncthreads();
  }
  for (int i = 0; i < count; i++) {
    const bool transposed_b = loader.transposed_b(), more = i + 1 < count;
    if (more) {
      loader.next();
      load();
    }
    multiply_step(tile, loader, shared.chunks[i % 2], transposed_b);
    if (more) store(shared.chunks[(i + 1) % 2]);
    __syncthreads();
  }
#endif
}

}  // namespace lorafuse::cuda
