#include "sample.h"

#include <algorithm>

namespace ptxemu {
namespace {

constexpr uint64_t fewest = 2;  // of each part

uint32_t kind(uint32_t i, uint32_t extent) { return i == 0 ? 0 : i == extent - 1 ? 2 : 1; }

uint64_t hash(uint64_t x) {  // SplitMix64's finalizer
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

}  // namespace

Sample sample_of(const Dim3& grid, int n) {
  std::vector<uint64_t> members[27];
  uint64_t block = 0;
  for (uint32_t z = 0; z < grid.z; z++)
    for (uint32_t y = 0; y < grid.y; y++)
      for (uint32_t x = 0; x < grid.x; x++) members[9 * kind(z, grid.z) + 3 * kind(y, grid.y) + kind(x, grid.x)].push_back(block++);
  Sample sample;
  for (auto& blocks : members) {
    const uint64_t m = blocks.size(), run = std::min(m, std::max(fewest, (m + uint64_t(n) - 1) / uint64_t(n)));
    if (!m) continue;
    for (uint64_t i = 0; i < run; i++) {
      const uint64_t begin = i * m / run, end = (i + 1) * m / run;
      sample.picks.push_back({blocks[begin + hash(i + 1) % (end - begin)], uint32_t(sample.parts.size())});
    }
    sample.parts.push_back({m, run});
  }
  std::sort(sample.picks.begin(), sample.picks.end(), [](auto& a, auto& b) { return a.block < b.block; });
  return sample;
}

std::string without_addresses(const Launch& launch, const Memory& memory) {
  std::string key = launch.kernel->name;
  for (uint64_t x : {uint64_t(launch.grid.x), uint64_t(launch.grid.y), uint64_t(launch.grid.z), uint64_t(launch.block.x),
                     uint64_t(launch.block.y), uint64_t(launch.block.z), uint64_t(launch.dynamic_shared)})
    key += "," + std::to_string(x);
  std::vector<std::byte> parameters = launch.parameters;
  for (size_t at = 0; at + 8 <= parameters.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, &parameters[at], 8);
    if (!memory.reserved(word)) continue;
    word &= 255;
    std::memcpy(&parameters[at], &word, 8);
  }
  return key + ":" + std::string(reinterpret_cast<const char*>(parameters.data()), parameters.size());
}

}  // namespace ptxemu
