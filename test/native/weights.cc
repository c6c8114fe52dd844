// 16-bit floats bit by bit, and weights as they come out of a mapped file.
#include "base/weights.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "backends.h"
#include "checkpoint.h"
#include "graphs.h"
#include "process_limits.h"

namespace lorafuse::test {
namespace {

// The value of a 16-bit float from its fields, in f64.
double value_of(uint16_t bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1, most = (1 << exponent_bits) - 1;
  const int exponent = bits >> fraction_bits & most, fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = bits & 0x8000 ? -1 : 1, unit = std::ldexp(1.0, -fraction_bits);
  if (exponent == most) return fraction ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * fraction * unit * std::ldexp(1.0, 1 - bias);
  return sign * (1 + fraction * unit) * std::ldexp(1.0, exponent - bias);
}

struct Format {
  const char* name;
  int exponent_bits;
  float (*widen)(uint16_t);
  uint16_t (*narrow)(float);
};
const Format kFormats[] = {
    {"f16", 5, [](uint16_t bits) { return widen(Half{bits}); }, [](float x) { return to_half(x).bits; }},
    {"bf16", 8, [](uint16_t bits) { return widen(Bfloat{bits}); }, [](float x) { return to_bfloat(x).bits; }},
};

// Of the finite magnitudes and the first one that is not, the nearest to |x|, the even one in between: by search, in f64.
uint16_t nearest(const Format& f, float x) {
  const uint16_t infinite = static_cast<uint16_t>(((1 << f.exponent_bits) - 1) << (15 - f.exponent_bits));
  auto magnitude = [&](int bits) {  // what would follow the largest finite one stands for infinity
    return bits < infinite ? value_of(static_cast<uint16_t>(bits), f.exponent_bits) : std::ldexp(1.0, 1 << (f.exponent_bits - 1));
  };
  const double size = std::fabs(static_cast<double>(x));
  int low = 0, high = infinite;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (magnitude(middle) <= size ? low : high) = middle;
  }
  const double down = size - magnitude(low), up = magnitude(high) - size;
  const int bits = up < down || (up == down && low % 2) ? high : low;
  return static_cast<uint16_t>(bits | (std::signbit(x) ? 0x8000 : 0));
}

// A file with one tensor whose bytes begin `skip` bytes in.
struct OneTensor {
  TemporaryFolder folder;
  Weights weights;
  OneTensor(Weights::StorageTypes held, DType dtype, const Shape& shape, const std::vector<float>& values, size_t skip = 0)
      : weights(held) {
    auto bytes = stored(dtype, values);
    bytes.insert(bytes.begin(), skip, 0x77);
    write_file(folder.file("one"), bytes);
    weights.add(folder.file("one"), {{"t", dtype, shape, skip}});
  }
  Tensor get(const Shape& shape, Form form = Form::as_is) { return weights.get("t", weights.dtype("t", form), shape, form); }
};

std::vector<float> widened(const Tensor& t) {
  std::vector<float> out;
  for (int64_t i = 0; i < t.shape.elements(); i++) {
    uint16_t bits;
    float x;
    if (t.dtype == DType::f32) std::memcpy(&x, static_cast<char*>(t.data) + 4 * i, 4);
    else std::memcpy(&bits, static_cast<char*>(t.data) + 2 * i, 2), x = kFormats[t.dtype == DType::bf16].widen(bits);
    out.push_back(x);
  }
  return out;
}

}  // namespace

SUITE(floats) {
  for (const Format& f : kFormats) {
    test_case(text("every ", f.name, " is widened exactly and survives the way back"), [f] {
      for (int bits = 0; bits < 0x10000; bits++) {
        const auto word = static_cast<uint16_t>(bits);
        const double expected = value_of(word, f.exponent_bits), x = f.widen(word);
        EXPECT(x == expected || (std::isnan(x) && std::isnan(expected)), "bits ", bits, ": ", x, " instead of ", expected);
        if (std::isnan(x)) EXPECT(std::isnan(f.widen(f.narrow(f.widen(word)))), "bits ", bits, ": NaN was lost");
        else EXPECT(f.narrow(f.widen(word)) == word, "bits ", bits, " came back as ", f.narrow(f.widen(word)));
      }
    });
    test_case(text("narrowing to ", f.name, " takes the nearest, the even one halfway, subnormals and overflow included"), [f] {
      Random random(9);
      std::vector<float> values = {0.0f, -0.0f, 1e-45f, 1e-8f, 65504, 65519.996f, 65520, 65536, 3.4028235e38f, 3.39e38f, 1e38f, -70000};
      for (int i = 0; i < 200000; i++) {
        const float x = float_of(static_cast<uint32_t>(random.below(int64_t{1} << 32)));
        if (std::isfinite(x)) values.push_back(x);
        values.push_back(std::ldexp(random.normal(), static_cast<int>(random.below(50)) - 30));  // f16's own range
      }
      for (int bits = 0; bits < 0x10000; bits += 7) {  // exactly halfway to the next, and a little to each side
        const float a = f.widen(static_cast<uint16_t>(bits)), b = f.widen(static_cast<uint16_t>(bits + 1));
        if (!std::isfinite(a) || !std::isfinite(b)) continue;
        const float half = static_cast<float>((static_cast<double>(a) + b) / 2);
        for (float x : {half, std::nextafterf(half, a), std::nextafterf(half, b)}) values.push_back(x);
      }
      for (float x : values) EXPECT(f.narrow(x) == nearest(f, x), x, " became ", f.narrow(x), " instead of ", nearest(f, x));
      EXPECT(std::isinf(f.widen(f.narrow(INFINITY))) && std::isinf(f.widen(f.narrow(-INFINITY))), "infinity was lost");
      EXPECT(std::isnan(f.widen(f.narrow(NAN))), "NaN was lost");
    });
  }
}

SUITE(weights) {
  const std::vector<float> six = {1, -2.5f, 0.1f, 3.14159f, 1e-6f, 70000};
  for (DType held : {DType::f32, DType::f16, DType::bf16})
    for (const std::optional<DType> matrices :
         {std::optional<DType>(), std::optional(DType::f32), std::optional(DType::f16), std::optional(DType::bf16)}) {
      const DType wanted = matrices.value_or(held);
      test_case(text("a matrix in ", name_of(held), matrices ? " held as " : " as it is comes as ", name_of(wanted)), [=] {
        OneTensor one({matrices, std::nullopt}, held, {2, 3}, six);
        const Tensor t = one.get({2, 3});
        EXPECT(t.dtype == wanted && t.shape == Shape({2, 3}), name_of(t.dtype), " ", t.shape);
        const auto values = widened(t);
        for (size_t i = 0; i < six.size(); i++) {
          const float expected = rounded(wanted, rounded(held, six[i]));
          EXPECT(values[i] == expected, "element ", i, ": ", values[i], " instead of ", expected);
        }
      });
    }
  test_case("vectors keep their type whatever the precision of matrices", [=] {
    OneTensor one({DType::bf16, std::nullopt}, DType::f32, {6}, six), widened_one({DType::bf16, DType::f32}, DType::f16, {6}, six);
    EXPECT(one.get({6}).dtype == DType::f32 && widened(one.get({6})) == six, "a bias was rounded");
    EXPECT(widened_one.get({6}).dtype == DType::f32, "a bias was not widened");
  });
  test_case("a 3x3 convolution [N, C, 3, 3] comes as [9, N, C]", [] {
    const int64_t outputs = 4, inputs = 3;
    for (const Weights::StorageTypes& held : {Weights::StorageTypes{}, Weights::StorageTypes{DType::f16, std::nullopt}}) {
      std::vector<float> values;
      for (int i = 0; i < outputs * inputs * 9; i++) values.push_back(static_cast<float>(i));
      OneTensor one(held, DType::f32, {outputs, inputs, 3, 3}, values);
      const Tensor t = one.get({9, outputs, inputs}, Form::taps_first);
      EXPECT(t.shape == Shape({9, outputs, inputs}), t.shape);
      const auto numbers = widened(t);
      for (int64_t tap = 0; tap < 9; tap++)
        for (int64_t n = 0; n < outputs; n++)
          for (int64_t c = 0; c < inputs; c++)
            EXPECT(numbers[(tap * outputs + n) * inputs + c] == values[(n * inputs + c) * 9 + tap], "tap ", tap, ", ", n, ", ", c);
    }
  });
  for (DType file : {DType::f32, DType::f16, DType::bf16})
    for (DType held : {DType::f32, DType::f16, DType::bf16})
      test_case(
          text("an upsampling convolution [N, C, 3, 3] in ", name_of(file), " held as ", name_of(held), " comes as sums, rounded once"),
          [=] {
            const int64_t outputs = 5, inputs = 3;
            Random random(4);
            std::vector<float> values;  // whose sums f32 has exactly
            for (int i = 0; i < outputs * inputs * 9; i++) values.push_back(static_cast<float>(random.below(4096) - 2048) / 1024);
            OneTensor one({held, std::nullopt}, file, {outputs, inputs, 3, 3}, values, 1);
            const Tensor t = one.get({16, inputs, outputs}, Form::summed_taps);
            EXPECT(t.dtype == held && t.shape == Shape({16, inputs, outputs}), name_of(t.dtype), " ", t.shape);
            const std::vector<int> taps[] = {{2}, {1, 2}, {0, 1}, {0}};  // of one direction
            const auto sums = widened(t);
            for (int64_t i = 0; i < 16 * inputs * outputs; i++) {
              const int64_t n = i % outputs, c = i / outputs % inputs, tap = i / outputs / inputs;
              float sum = 0;
              for (int row : taps[tap / 4])
                for (int column : taps[tap % 4]) sum += rounded(file, values[(n * inputs + c) * 9 + 3 * row + column]);
              EXPECT(sums[i] == rounded(held, sum), "tap ", tap, ", ", c, ", ", n, ": ", sums[i], " instead of ", rounded(held, sum));
            }
          });
  test_case("sums of taps are f32 where no type of matrices is asked for", [] {
    OneTensor one(Weights::StorageTypes{}, DType::f16, {1, 1, 3, 3}, std::vector<float>(9, 1));
    EXPECT(one.weights.dtype("t", Form::summed_taps) == DType::f32, "sums of 16-bit numbers would be rounded");
    EXPECT(one.weights.dtype("t", Form::taps_first) == DType::f16, "taps alone keep their type");
  });
  test_case("a 1x1 convolution [N, C, 1, 1] comes as the matrix [N, C], in place", [=] {
    OneTensor one(Weights::StorageTypes{}, DType::f16, {3, 2, 1, 1}, {1, 2, 3, 4, 5, 6});
    const Tensor t = one.get({3, 2});
    EXPECT(t.shape == Shape({3, 2}) && widened(t) == std::vector<float>({1, 2, 3, 4, 5, 6}), t.shape);
    EXPECT(reinterpret_cast<uintptr_t>(t.data) % 4096 == 0, "the data was copied");
  });
  test_case("tensors at odd offsets are read as well", [=] {
    for (DType dtype : {DType::f32, DType::f16, DType::bf16})
      for (size_t skip : {1, 2, 3, 5}) {
        OneTensor one(Weights::StorageTypes{}, dtype, {2, 3}, six, skip);
        const Tensor t = one.get({2, 3});
        EXPECT(reinterpret_cast<uintptr_t>(t.data) % size_of(dtype) == 0, "not aligned");
        for (size_t i = 0; i < six.size(); i++)
          EXPECT(widened(t)[i] == rounded(dtype, six[i]), name_of(dtype), " at ", skip, ", element ", i);
      }
  });
  test_case("floats of 8 bits are held in f16, which has all of their values, or in the type that is asked for", [] {
    std::vector<unsigned char> bytes(256);
    for (int i = 0; i < 256; i++) bytes[i] = static_cast<unsigned char>(i);
    TemporaryFolder folder;
    write_file(folder.file("eight"), bytes);
    for (const Eight eight : {Eight::e4m3, Eight::e5m2})
      for (const auto held : {std::optional<DType>(), std::optional<DType>(DType::f32), std::optional<DType>(DType::bf16)}) {
        Weights weights({held, held});
        weights.add(folder.file("eight"), {{"t", DType::f16, {16, 16}, 0, eight}});
        EXPECT(weights.dtype("t", Form::as_is) == held.value_or(DType::f16), "another type");
        EXPECT(!weights.in_place("t", DType::f16, Form::as_is), "8 bits in place of 16");
        const auto got = widened(weights.get("t", held.value_or(DType::f16), {16, 16}, Form::as_is));
        for (int i = 0; i < 256; i++) {
          // E5M2 has the exponent of f16; E4M3 has a bias of 7 and, but for NaN, numbers where others have infinities.
          const double sign = i & 0x80 ? -1 : 1, exponent = i >> 3 & 15, fraction = i & 7;
          const double number = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, static_cast<int>(exponent) - 10);
          const double four = (i & 0x7f) == 0x7f ? NAN : sign * number;
          const double expected = eight == Eight::e5m2 ? value_of(static_cast<uint16_t>(i << 8), 5) : four;
          EXPECT(std::isnan(expected) ? std::isnan(got[i]) : got[i] == expected, text("byte ", i, ": ", got[i], ", not ", expected));
        }
      }
    Weights weights(Weights::StorageTypes{});
    expect_error("WEIGHTS_TRUNCATED", [&] { weights.add(folder.file("eight"), {{"t", DType::f16, {257}, 0, Eight::e4m3}}); });
    write_file(folder.file("taps"), std::vector<unsigned char>(9, 0x38));
    weights.add(folder.file("taps"), {{"k", DType::f16, {1, 1, 3, 3}, 0, Eight::e4m3}});
    for (const float x : widened(weights.get("k", DType::f16, {9, 1, 1}, Form::taps_first))) EXPECT(x == 1, "another tap");
  });
  test_case("released weights come back the same", [=] {
    OneTensor one({DType::f16, std::nullopt}, DType::f32, {2, 3}, six);
    const auto before = widened(one.get({2, 3}));
    one.weights.release();
    EXPECT(widened(one.get({2, 3})) == before, "other numbers after release()");
  });
  test_case("a tensor beyond the end of its file is refused, with its name and file", [] {
    TemporaryFolder folder;
    write_file(folder.file("short"), std::vector<unsigned char>(100, 1));
    Weights weights(Weights::StorageTypes{});
    const WeightEntry outside[] = {{"layer", DType::f32, {26}, 0},
                                   {"layer", DType::f16, {1}, 99},
                                   {"layer", DType::f32, {1}, 1000},
                                   {"layer", DType::f32, {1}, SIZE_MAX - 2}};
    for (const WeightEntry& e : outside) {
      const std::string message = expect_error("WEIGHTS_TRUNCATED", [&] { weights.add(folder.file("short"), {e}); });
      EXPECT(message.find("layer") != std::string::npos && message.find(folder.file("short")) != std::string::npos, message);
    }
    weights.add(folder.file("short"), {{"whole", DType::f32, {25}, 0}});
  });
  test_case("an empty file and a missing one are refused", [] {
    TemporaryFolder folder;
    write_file(folder.file("empty"), {});
    Weights weights(Weights::StorageTypes{});
    expect_error("WEIGHTS_TRUNCATED", [&] { weights.add(folder.file("empty"), {{"t", DType::f32, {1}, 0}}); });
    const std::string message = expect_error("FILE_NOT_FOUND", [&] { weights.add(folder.file("none"), {}); });
    EXPECT(message.find(folder.file("none")) != std::string::npos, message);
  });
  test_case("what is no regular file is refused at once, a pipe without a writer too", [] {
    TemporaryFolder folder;
    EXPECT(mkfifo(folder.file("pipe").c_str(), 0600) == 0, "no pipe");
    Weights weights(Weights::StorageTypes{});
    for (const std::string& path : {folder.file("pipe"), folder.file("."), std::string("/dev/zero")}) {
      const std::string message = expect_error("FILE_UNREADABLE", [&] { weights.add(path, {}); });
      EXPECT(message.find(path) != std::string::npos, message);
    }
    expect_error("FILE_NOT_FOUND", [&] { weights.add(folder.file("pipe") + "/file", {}); });
    expect_error("FILE_NOT_FOUND", [&] { weights.add(std::string("/dev/null\0", 10), {}); });
  });
  test_case("a file that is cut short while it is mapped reads as zeros, and is told", [] {
    TemporaryFolder folder;
    const int64_t count = 1 << 16;
    const std::vector<WeightEntry> entries = {{.name = "first", .shape = {16}}, {.name = "all", .shape = {count}}};
    for (const char* name : {"cut", "end", "whole"})
      std::ofstream(folder.file(name), std::ios::binary) << std::string(count * sizeof(float), '?');
    Weights cut(Weights::StorageTypes{}), end(Weights::StorageTypes{}), whole(Weights::StorageTypes{});
    cut.add(folder.file("cut"), entries);
    end.add(folder.file("end"), entries);
    whole.add(folder.file("whole"), entries);
    std::filesystem::resize_file(folder.file("cut"), 100);
    const auto last = [&](Weights& weights) { return weights.get("all", DType::f32, {count}, Form::as_is).f32()[count - 1]; };
    EXPECT(cut.get("first", DType::f32, {16}, Form::as_is).f32()[15] != 0, "what the file still has is not read");
    EXPECT(last(cut) == 0, "received ", last(cut));
    const std::string message = expect_error("WEIGHTS_TRUNCATED", [&] { cut.check(); });
    EXPECT(message.find(folder.file("cut")) != std::string::npos, message);
    end.check();
    std::filesystem::resize_file(folder.file("end"), count * sizeof(float) - 8);  // within the last page
    expect_error("WEIGHTS_TRUNCATED", [&] { end.check(); });
    EXPECT(last(whole) != 0, "the other file is not read");
    whole.check();
  });
  test_case("a file that finds no room or no descriptor is told from an empty one", [] {
    TemporaryFolder folder;
    write_sparse(folder.file("large"), {.entries = {}, .bytes = size_t{1} << 31});
    Weights weights(Weights::StorageTypes{});
#ifdef LORAFUSE_LIMITS_ADDRESSES
    {
      const WithAddresses limit(rlim_t{1} << 28);
      expect_error("OUT_OF_MEMORY", [&] { weights.add(folder.file("large"), {}); });
    }
#endif
    expect_error("TOO_MANY_FILES", [&] {
      const WithLimit limit(RLIMIT_NOFILE, 0);
      weights.add(folder.file("large"), {});
    });
  });
  test_case("a model that lacks a tensor, or has it in another shape, is refused by the tensor's name", [] {
    TemporaryFolder folder;
    const Config config = small_unet();
    for (bool missing : {true, false}) {
      Layout layout = unet_layout(config);
      const std::string name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";
      const auto entry = std::find_if(layout.entries.begin(), layout.entries.end(), [&](const WeightEntry& e) { return e.name == name; });
      EXPECT(entry != layout.entries.end(), "the layout has no ", name);
      if (missing) layout.entries.erase(entry);
      else entry->shape = {16, 16};  // [16, 12] is right: fewer elements, so that the file still holds them
      const WeightFile file = write_sparse(folder.file("model"), unet_layout(config));
      Weights weights(Weights::StorageTypes{});
      weights.add(file.path, layout.entries);
      const std::string message =
          expect_error(missing ? "WEIGHT_MISSING" : "WEIGHT_SHAPE", [&] { train_graph(weights, config, kNoAdapters, {1, 4, 4}, 7); });
      EXPECT(message.find(name) != std::string::npos && message.find("[16, 12]") != std::string::npos, message);
      if (!missing) EXPECT(message.find("[16, 16]") != std::string::npos, message);
    }
  });
}

}  // namespace lorafuse::test
