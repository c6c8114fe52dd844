// Files mapped for reading. One that is cut short while it is mapped costs the process an error, not its life.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <string>

namespace lorafuse {

class Mapping {
 public:
  // Maps a whole regular file. Throws FILE_NOT_FOUND, FILE_UNREADABLE, TOO_MANY_FILES, OUT_OF_MEMORY, WEIGHTS_TRUNCATED if it is empty.
  explicit Mapping(std::string path);
  ~Mapping();
  Mapping(const Mapping&) = delete;

  const unsigned char* data() const;
  size_t size() const { return size_; }
  // Lets go of the memory of pages; they are read from the file again where they are touched.
  void release(const unsigned char* begin, const unsigned char* end) const;
  void release() const { release(data(), data() + size()); }
  // Throws WEIGHTS_TRUNCATED if bytes were touched that the file no longer has, or the disk did not give: they were read as zeros.
  void check() const;

 private:
  struct Range;
  const std::string path_;
  Range* range_ = nullptr;
  size_t size_ = 0;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace lorafuse
