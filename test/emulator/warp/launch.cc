// A launch: its blocks in the order asked for, shared out to host threads. The error of the first block in that order is the one thrown,
// whatever the number of threads.
#include <algorithm>
#include <exception>
#include <numeric>
#include <thread>

#include "../decode.h"
#include "sample.h"
#include "warp.h"

namespace ptxemu {
namespace {

// The turns of `count` blocks.
std::vector<uint64_t> block_order(uint64_t count, const Options& options) {
  std::vector<uint64_t> order;
  if (options.block_order == Order::forward) return order;  // empty = as they are numbered
  order.resize(count);
  std::iota(order.begin(), order.end(), uint64_t(0));
  if (options.block_order == Order::backward) std::reverse(order.begin(), order.end());
  uint64_t random = options.seed * 0x9e3779b97f4a7c15 + 12345;
  if (options.block_order == Order::random)
    for (uint64_t i = count; i > 1; i--) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      std::swap(order[i - 1], order[(random >> 20) % i]);
    }
  return order;
}

}  // namespace

void fail(const Warp& w, ErrorKind kind, const std::string& message, int lane) {
  const Block& b = *w.block;
  const Program& program = *b.program;
  std::string text = std::string(name(kind)) + ": " + message + "\n  kernel " + b.launch->kernel->name + ", block (" +
                     std::to_string(b.index.x) + ", " + std::to_string(b.index.y) + ", " + std::to_string(b.index.z) + "), ";
  int thread = lane >= 0 ? w.id * 32 + lane : -1;
  if (lane < 0) {
    text += "warp " + std::to_string(w.id);
  } else {
    const Dim3& size = b.launch->block;
    text += "thread (" + std::to_string(thread % size.x) + ", " + std::to_string(thread / size.x % size.y) + ", " +
            std::to_string(thread / size.x / size.y) + ")";
  }
  int ptx_line = 0;
  std::string source;
  if (w.current) {
    const Line& line = program.lines[w.current - program.code.data()];
    ptx_line = line.ptx_line;
    if (auto file = program.files->find(line.location.file); file != program.files->end())
      source = file->second + ":" + std::to_string(line.location.line);
    text += "\n  PTX line " + std::to_string(ptx_line) + ": " + line.text;
    if (!source.empty()) text += "\n  " + source;
  }
  Error error(kind, text);
  error.kernel = b.launch->kernel->name;
  error.block = b.index;
  error.thread = thread;
  error.ptx_line = ptx_line;
  error.source = source;
  throw error;
}

KernelCounters run(const Launch& launch, Memory& memory, const Gpu& gpu, const Options& options, Counters& counters) {
  LaunchLimit limit = check(launch, gpu, gpu.shared_per_block_opt_in);
  if (limit != LaunchLimit::none) throw Error(ErrorKind::limit, "kernel " + launch.kernel->name + " cannot be launched: " + name(limit));
  Module::State& module = launch.kernel->module->state();
  if (!module.loaded) throw Error(ErrorKind::limit, "the module of kernel " + launch.kernel->name + " has not been loaded");
  const Program& program = module.program(*launch.kernel);
  const bool sampled = options.sample > 1;
  if (sampled && !options.counters) throw Error(ErrorKind::limit, "a sample of the blocks runs for the counters only, and they are off");
  std::string key;
  if (sampled) {
    key = without_addresses(launch, memory);
    if (auto known = counters.sampled.find(key); known != counters.sampled.end()) {
      counters.kernels[launch.kernel->name].add(known->second);
      KernelCounters again = known->second;
      again.blocks_run = 0;
      return again;
    }
  }
  const Sample sample = sampled ? sample_of(launch.grid, options.sample) : Sample{{{1, 1}}, {}};
  const uint64_t count = sampled ? sample.picks.size() : launch.grid.count();
  const std::vector<uint64_t> order = block_order(count, options);
  const uint32_t stamp = memory.next_launch();
  const size_t warps = (launch.block.count() + 31) / 32;
  const int threads = int(std::min<uint64_t>({uint64_t(std::max(1, options.threads)), count, 1 + count * warps / 8}));

  LaunchState common;
  common.concurrent = threads > 1;
  std::atomic<uint64_t> next{0}, failed_at{UINT64_MAX};
  std::mutex mutex;
  std::exception_ptr error;
  std::vector<KernelCounters> total(sample.parts.size());
  auto work = [&] {
    Block block;
    std::vector<KernelCounters> mine(sample.parts.size());
    block.gpu = &gpu;
    block.options = &options;
    block.memory = &memory;
    block.counters = &mine[0];
    block.checks_global = !sampled && (options.races || options.uninitialised);
    block.launch_stamp = stamp;
    block.common = &common;
    uint64_t at = 0;
    try {
      prepare_block(block, program, launch);
      while ((at = next.fetch_add(1)) < count && at < failed_at) {
        block.linear = order.empty() ? at : order[at];
        if (sampled) {
          block.counters = &mine[sample.picks[block.linear].part];
          block.linear = sample.picks[block.linear].block;
        }
        block.index = {uint32_t(block.linear % launch.grid.x), uint32_t(block.linear / launch.grid.x % launch.grid.y),
                       uint32_t(block.linear / launch.grid.x / launch.grid.y)};
        run_block(block);
      }
    } catch (...) {
      std::lock_guard lock(mutex);
      if (at < failed_at) failed_at = at, error = std::current_exception();
    }
    std::lock_guard lock(mutex);
    for (size_t i = 0; i < mine.size(); i++) total[i].add(mine[i]);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; i++) others.emplace_back(work);
  work();
  for (auto& t : others) t.join();
  KernelCounters all;
  for (size_t i = 0; i < total.size(); i++) {
    all.add(total[i], sample.parts[i].blocks, sample.parts[i].run);
    all.blocks_run += total[i].blocks;
  }
  all.launches = 1;
  if (options.counters) counters.kernels[launch.kernel->name].add(all);
  if (error) std::rethrow_exception(error);
  if (sampled) counters.sampled[key] = all;
  return all;
}

}  // namespace ptxemu
