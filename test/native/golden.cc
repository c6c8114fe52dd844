#include "golden.h"

#include <cstring>
#include <fstream>
#include <sstream>

#include "arrays.h"

namespace lorafuse::test {
namespace {

std::string& fixtures_folder() {
  static std::string folder = LORAFUSE_FIXTURES;
  return folder;
}

// What `read` gives; a Failure says in which file.
template <class Read> auto in_file(const std::string& path, Read read) {
  try {
    return read();
  } catch (const Failure& e) { throw Failure(path + ": " + e.what()); }
}

DType dtype_of(const std::string& name) {
  if (name == "F32") return DType::f32;
  if (name == "F16") return DType::f16;
  if (name == "BF16") return DType::bf16;
  throw Failure("expected F32, F16 or BF16 but found " + name);
}

// One for each block: diffusers writes a list, or one value for all.
std::vector<double> per_block(const Json& json, size_t blocks) {
  if (!std::holds_alternative<Json::List>(json.value)) return std::vector<double>(blocks, json.number());
  const auto all = json.integers();
  if (all.size() != blocks) throw Failure("expected " + std::to_string(blocks) + " values but found " + std::to_string(all.size()));
  return {all.begin(), all.end()};
}

std::vector<std::string> words(const Json& json) {
  std::vector<std::string> all;
  for (const Json& word : json.list()) all.push_back(word.string());
  return all;
}

}  // namespace

std::string fixtures() { return fixtures_folder(); }
void set_fixtures(const std::string& folder) { fixtures_folder() = folder; }

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  if (in) out << in.rdbuf();
  if (!in || !out) throw Failure("expected a readable file at " + path);
  return out.str();
}

// huggingface/safetensors:README.md, Format: the header's length in 8 bytes, the header, the data.
Safetensors::Safetensors(const std::string& path) : path(path), bytes(read_file(path)) {
  uint64_t length = 0;
  if (bytes.size() >= sizeof length) std::memcpy(&length, bytes.data(), sizeof length);
  const size_t room = bytes.size() - std::min(bytes.size(), sizeof length);
  if (length == 0 || length > room) throw Failure(text(path, ": expected a header within ", room, " bytes but its length is ", length));
  const size_t begin = sizeof length + length, size = room - length;
  const Json header = parse_json(bytes.substr(sizeof length, length), path);
  in_file(path, [&] {
    for (const auto& [name, member] : header.members()) {
      if (name == "__metadata__") {
        for (const auto& [key, value] : member.members()) metadata[key] = value.string();
        continue;
      }
      WeightEntry e{name, dtype_of(member["dtype"].string()), Shape(member["shape"].integers()), 0};
      const auto offsets = member["data_offsets"].integers();
      const auto expected = e.shape.elements() * static_cast<int64_t>(size_of(e.dtype));
      if (offsets.size() != 2 || offsets[0] < 0 || offsets[1] - offsets[0] != expected || offsets[1] > static_cast<int64_t>(size))
        throw Failure(text("expected ", expected, " bytes within ", size, " for tensor ", name));
      e.offset = begin + offsets[0];
      entries.push_back(std::move(e));
    }
    return true;
  });
}

const WeightEntry& Safetensors::entry(const std::string& name) const {
  for (const WeightEntry& e : entries)
    if (e.name == name) return e;
  throw Failure("expected tensor " + name + " in " + path + " but it is not there");
}

std::vector<float> Safetensors::tensor(const std::string& name) const {
  const WeightEntry& e = entry(name);
  const char* begin = bytes.data() + e.offset;
  return loaded(e.dtype, std::vector<unsigned char>(begin, begin + e.shape.elements() * size_of(e.dtype)));
}

std::vector<float> pattern(const std::string& name, int64_t count, double deviation) {
  uint32_t key = 2166136261;
  for (unsigned char byte : name) key = (key ^ byte) * 16777619u;
  const double scale = std::sqrt(3.0) * deviation;
  std::vector<float> out(count);
  for (int64_t i = 0; i < count; i++) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u + key;
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    x ^= x >> 16;
    out[i] = static_cast<float>(((x + 0.5) / 4294967296.0 * 2 - 1) * scale);
  }
  return out;
}

Config read_unet_config(const std::string& path) {
  const Json json = parse_json(read_file(path), path);
  return in_file(path, [&] {
    const size_t blocks = json["block_out_channels"].list().size();
    Config::Values values = {{"down_block_types", words(json["down_block_types"])},
                             {"up_block_types", words(json["up_block_types"])},
                             {"block_out_channels", per_block(json["block_out_channels"], blocks)},
                             {"num_attention_heads", per_block(json["attention_head_dim"], blocks)},  // it counts heads
                             {"transformer_layers_per_block", per_block(json["transformer_layers_per_block"], blocks)},
                             {"flip_sin_to_cos", true},
                             {"freq_shift", 0.0}};
    std::vector<const char*> numbers = {"in_channels",         "out_channels",    "layers_per_block",
                                        "cross_attention_dim", "norm_num_groups", "norm_eps"};
    if (std::holds_alternative<std::string>(json["addition_embed_type"].value))
      numbers.insert(numbers.end(), {"addition_time_embed_dim", "projection_class_embeddings_input_dim"});
    for (const char* name : numbers) values[name] = json[name].number();
    return Config(path, std::move(values));
  });
}

Golden::Golden(const std::string& name)
    : name(name), config(read_unet_config(fixtures() + "/" + name + "/model/unet/config.json")),
      unet(fixtures() + "/" + name + "/model/unet/diffusion_pytorch_model.safetensors"),
      file(fixtures() + "/" + name + "/golden.safetensors"), about_(parse_json(file.metadata.at("golden"), file.path)) {
  const Json& made = about_["case"];
  rank = made["rank"].integer();
  steps = made["steps"].integer();
  alpha = static_cast<float>(made["alpha"].number());
  deviation = made["deviation"].number();
  const auto shape = made["latents"].integers();
  latents = {shape.at(0), shape.at(1), shape.at(2)};
}

double Golden::limit(DType computes, const std::string& group) const {
  const double single = std::min(1e-4, std::max(1e-5, 4 * about_["naive_f32_error"][group].number()));
  if (computes == DType::f32) return single;
  double most = single;
  // Two losses may be near by luck: all that there are tell how far off one is.
  const Json in_bf16 = computes == DType::bf16 ? parse_json(read_file(fixtures() + "/golden-bf16.json"), "golden-bf16.json") : Json{};
  for (const auto& [of, error] : (computes == DType::bf16 ? in_bf16[name] : about_["naive_f16_error"]).members())
    if (of == group || (group.starts_with("losses") && of.find("losses") != std::string::npos)) most = std::max(most, 2 * error.number());
  return most;
}

double relative_error(const std::vector<float>& value, const std::vector<float>& truth) {
  Deviation deviation;
  deviation.add(std::span(value), Array<double>(Shape{static_cast<int64_t>(truth.size())}, truth));
  return deviation.l2();
}

}  // namespace lorafuse::test
