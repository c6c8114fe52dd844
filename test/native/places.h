// The places a session may be opened on here: the CPU, and the GPU for each type that it computes in.
#pragma once
#include <string>
#include <vector>

#include "backends.h"
#include "train/session.h"

namespace lorafuse::test {

struct Place {
  std::string name;
  Device device;
  DType precision;
};

inline std::vector<Place> places() {
  std::vector<Place> all = {{"the CPU", Device::cpu, DType::f32}};
  for (DType type : gpu_network_types()) all.push_back({text("the gpu in ", lorafuse::name_of(type)), Device::cuda, type});
  return all;
}

}  // namespace lorafuse::test
