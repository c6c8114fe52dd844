// vprintf(format, arguments) and __assertfail(message, file, line, function, size) (CUDA C++ Programming Guide, "Formatted Output",
// "Assertion").
#include "external.h"

#include <cstdio>

#include "memory.h"

namespace ptxemu {
namespace {

uint64_t argument(Warp& w, const Instruction& in, int i, uint32_t bytes, int lane) {
  uint64_t value = 0;
  std::memcpy(&value, local_bytes(w, lanes<uint64_t>(w, in.from(i))[lane], bytes, lane), bytes);
  return value;
}

const char* generic_bytes(Warp& w, uint64_t address, uint32_t bytes, int lane) {
  const uint64_t window = address & window_mask;
  if (window == shared_window) return shared_bytes(w, address & ~window_mask, bytes, lane);
  if (window == local_window) return local_bytes(w, address & ~window_mask, bytes, lane);
  bool device;
  return reinterpret_cast<const char*>(global_bytes(w, address, bytes, lane, device));
}

std::string text_at(Warp& w, uint64_t address, int lane) {
  std::string text;
  for (const char* c; *(c = generic_bytes(w, address + text.size(), 1, lane));) text += *c;
  return text;
}

}  // namespace

// Arguments lie one behind the other, each aligned to its size; what is shorter than an int is an int, a float is a double.
void call_vprintf(Warp& w, const Instruction& in, uint32_t mask) {
  each_active(mask, [&](int lane) {
    const std::string format = text_at(w, argument(w, in, 0, 8, lane), lane);
    const uint64_t list = argument(w, in, 1, 8, lane);
    uint64_t at = 0;
    std::string out;
    for (size_t i = 0; i < format.size(); i++) {
      if (format[i] != '%') {
        out += format[i];
        continue;
      }
      size_t end = format.find_first_not_of("0123456789.+-# lhzjt", i + 1);
      if (end == std::string::npos) break;
      const char kind = format[end];
      std::string one = format.substr(i, end - i + 1);
      const bool wide = one.find('l') != std::string::npos || one.find('z') != std::string::npos || one.find('j') != std::string::npos ||
                        std::string_view("fFeEgGaAsp").find(kind) != std::string_view::npos;
      i = end;
      if (kind == '%') {
        out += '%';
        continue;
      }
      const uint32_t size = wide ? 8 : 4;
      at = (at + size - 1) / size * size;
      uint64_t bits = 0;
      std::memcpy(&bits, generic_bytes(w, list + at, size, lane), size);
      at += size;
      char buffer[512];
      if (std::string_view("fFeEgGaA").find(kind) != std::string_view::npos)
        std::snprintf(buffer, sizeof buffer, one.c_str(), std::bit_cast<double>(bits));
      else if (kind == 's') std::snprintf(buffer, sizeof buffer, one.c_str(), text_at(w, bits, lane).c_str());
      else if (wide) std::snprintf(buffer, sizeof buffer, one.c_str(), static_cast<unsigned long long>(bits));
      else std::snprintf(buffer, sizeof buffer, one.c_str(), uint32_t(bits));
      out += buffer;
    }
    std::fputs(out.c_str(), stdout);
    if (in.sources > 2) {
      const int32_t result = 0;
      std::memcpy(local_bytes(w, lanes<uint64_t>(w, in.from(2))[lane], 4, lane), &result, 4);
    }
  });
  std::fflush(stdout);
}

void call_assertfail(Warp& w, const Instruction& in, uint32_t mask) {
  const int lane = std::countr_zero(mask);
  const std::string message = text_at(w, argument(w, in, 0, 8, lane), lane), file = text_at(w, argument(w, in, 1, 8, lane), lane);
  const std::string function = text_at(w, argument(w, in, 3, 8, lane), lane);
  fail(w, ErrorKind::assertion,
       file + ":" + std::to_string(argument(w, in, 2, 4, lane)) + ": " + function + ": assertion `" + message + "` failed", lane);
}

}  // namespace ptxemu
