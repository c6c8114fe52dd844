// The format: fatbinary_section.h for the wrapper; the rest as nvcc 12 and 13 write it.
//   wrapper  {u32 0x466243B1, u32 version, pointer to data}
//   data     {u32 0xBA55ED50, u16 version, u16 header bytes, u64 bytes of all entries}, entries
//   entry    {u16 kind: 1 PTX, 2 ELF; u16; u32 header bytes; u64 payload bytes; u32 compressed bytes; u32; u16 minor, major;
//             u32 architecture; u32; u32; u64 flags: 0x2000 LZ4, 0x8000 zstd}, padding to the header bytes, payload
#include "runtime/fatbinary.h"

#include <elf.h>

#include <cstdint>
#include <cstring>

#include "runtime/failure.h"

namespace ptxemu {
namespace {

struct Wrapper {
  uint32_t magic, version;
  const char* data;
};
struct Header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;
};
struct Entry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;
  uint32_t compressed_bytes, options_offset;
  uint16_t minor, major;
  uint32_t architecture, name_offset, name_bytes;
  uint64_t flags;
};
static_assert(sizeof(Header) == 16 && sizeof(Entry) == 48);

template <class T> T read(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

std::string architectures(const std::vector<Image>& images, Image::Kind kind) {
  std::string list;
  for (const Image& image : images) {
    if (image.kind != kind) continue;
    list += (list.empty() ? "" : ", ") + std::to_string(image.compute_capability) + (image.compressed ? " (compressed)" : "");
  }
  return list.empty() ? "none" : list;
}

}  // namespace

std::vector<Image> read_fat_binary(const void* wrapper) {
  const auto outer = read<Wrapper>(static_cast<const char*>(wrapper));
  require(outer.magic == 0x466243B1u, cudaErrorInvalidKernelImage, "the fat binary's wrapper does not begin with 0x466243B1");
  const auto header = read<Header>(outer.data);
  require(header.magic == 0xBA55ED50u, cudaErrorInvalidKernelImage, "the fat binary does not begin with 0xBA55ED50");
  std::vector<Image> images;
  const char* at = outer.data + header.header_bytes;
  for (const char* end = at + header.bytes; at < end;) {
    const auto entry = read<Entry>(at);
    require(entry.header_bytes >= sizeof(Entry) && entry.bytes <= uint64_t(end - at) - entry.header_bytes, cudaErrorInvalidKernelImage,
            "an entry of the fat binary is longer than the fat binary");
    Image image;
    image.kind = entry.kind == 1 ? Image::Kind::ptx : entry.kind == 2 ? Image::Kind::cubin : Image::Kind::other;
    image.compute_capability = int(entry.architecture);
    image.compressed = entry.compressed_bytes != 0 || (entry.flags & 0xA000) != 0;
    image.data = at + entry.header_bytes;
    image.bytes = entry.bytes;
    images.push_back(image);
    at += entry.header_bytes + entry.bytes;
  }
  return images;
}

std::string choose_ptx(const std::vector<Image>& images, int compute_capability) {
  const Image* best = nullptr;
  for (const Image& image : images) {
    if (image.kind != Image::Kind::ptx || image.compute_capability > compute_capability) continue;
    if (!best || image.compute_capability > best->compute_capability) best = &image;
  }
  const std::string gpu = "a gpu of compute capability " + std::to_string(compute_capability);
  if (!best)
    throw Failure(cudaErrorNoKernelImageForDevice, "no PTX for " + gpu + ": the fat binary holds PTX for " +
                                                       architectures(images, Image::Kind::ptx) + ", machine code for " +
                                                       architectures(images, Image::Kind::cubin) +
                                                       "; build with -gencode arch=compute_75,code=[sm_75,compute_75]");
  if (best->compressed)
    throw Failure(cudaErrorNoKernelImageForDevice, "the PTX for " + gpu +
                                                       " is compressed: build with --no-compress, or "
                                                       "--compress-mode=none from CUDA 12.8");
  return std::string(best->data, strnlen(best->data, best->bytes));
}

// A kernel's section is .text.<name>; the upper byte of its sh_info is the number of registers (as EIATTR_REGCOUNT of .nv.info).
std::map<std::string, int> registers_of(const std::vector<Image>& images, int compute_capability) {
  const Image* best = nullptr;
  for (const Image& image : images) {
    const int cc = image.compute_capability;
    if (image.kind != Image::Kind::cubin || image.compressed || cc > compute_capability || cc / 10 != compute_capability / 10) continue;
    if (!best || cc > best->compute_capability) best = &image;
  }
  std::map<std::string, int> registers;
  if (!best || best->bytes < sizeof(Elf64_Ehdr) || std::memcmp(best->data, ELFMAG, SELFMAG) != 0) return registers;
  const auto elf = read<Elf64_Ehdr>(best->data);
  const auto section = [&](int i) { return read<Elf64_Shdr>(best->data + elf.e_shoff + size_t(i) * elf.e_shentsize); };
  const char* names = best->data + section(elf.e_shstrndx).sh_offset;
  for (int i = 0; i < elf.e_shnum; ++i) {
    const Elf64_Shdr s = section(i);
    const std::string name = names + s.sh_name;
    if (name.rfind(".text.", 0) == 0) registers[name.substr(6)] = int(s.sh_info >> 24);
  }
  return registers;
}

}  // namespace ptxemu
