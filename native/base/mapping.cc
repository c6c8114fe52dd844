#include "mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>
#include <utility>

#include "check.h"

namespace lorafuse {

// The addresses of a mapping. Ranges are linked for good and used again, so that the handler of a signal may walk along them at any time.
struct Mapping::Range {
  std::atomic<uintptr_t> begin = 0, end = 0;  // none while end is 0
  std::atomic<uint32_t> version = 0;          // odd while they change
  std::atomic<bool> is_lost = false;          // zeros took the place of bytes
  Range* next = nullptr;

  void set(uintptr_t from, uintptr_t to) {
    version++;
    begin = from;
    end = to;
    version++;
  }
  // Both as they were at one time. What changes them touches no mapped page, so that no handler waits for its own thread.
  std::pair<uintptr_t, uintptr_t> get() const {
    for (;;) {
      const uint32_t before = version;
      const std::pair<uintptr_t, uintptr_t> both(begin, end);
      if (before % 2 == 0 && version == before) return both;
    }
  }

  static std::atomic<Range*> first;
  static void on_bus_error(int, siginfo_t* info, void*);

  static Range* add(const void* data, size_t size) {
    static std::mutex mutex;
    const std::lock_guard lock(mutex);
    Range* range = first;
    while (range && range->end) range = range->next;
    if (!range) {
      range = new Range;
      range->next = first;
      first = range;
    }
    range->is_lost = false;
    range->set(reinterpret_cast<uintptr_t>(data), reinterpret_cast<uintptr_t>(data) + size);
    return range;
  }
};
std::atomic<Mapping::Range*> Mapping::Range::first = nullptr;

static struct sigaction previous;  // what the process did with SIGBUS

// The system sends SIGBUS to a thread that touches a page of a mapping behind the end of its file, or one that the disk does not give. In
// one of our ranges zeros take the place of that page and those behind it, and the thread goes on. Other addresses are not ours to mend.
void Mapping::Range::on_bus_error(int signal, siginfo_t* info, void* context) {
  const int error = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  const bool is_sent = info->si_code <= 0;  // by a process
  for (Range* range = first; range && !is_sent; range = range->next) {
    const auto [begin, end] = range->get();
    if (address < begin || address >= end) continue;
    const uintptr_t page = address - (address - begin) % sysconf(_SC_PAGESIZE);
    if (mmap(reinterpret_cast<void*>(page), end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) break;
    range->is_lost = true;
    errno = error;
    return;
  }
  if (previous.sa_flags & SA_SIGINFO) previous.sa_sigaction(signal, info, context);
  else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) previous.sa_handler(signal);
  else if (previous.sa_handler == SIG_DFL || !is_sent) {  // who ignores it ignores no fault
    std::signal(SIGBUS, SIG_DFL);
    if (is_sent) raise(SIGBUS);  // a fault comes again by itself
  }
  errno = error;
}

namespace {

// What the system's refusal of a file means.
Error refusal(const std::string& path, int error) {
  if (error == ENOMEM || error == EAGAIN)
    return {"OUT_OF_MEMORY", text("Expected room to map the weight file ", path, " but the system has no more")};
  const bool missing = error == ENOENT || error == ENOTDIR || error == ENAMETOOLONG;
  const bool exhausted = error == EMFILE || error == ENFILE;
  const char* code = missing ? "FILE_NOT_FOUND" : exhausted ? "TOO_MANY_FILES" : "FILE_UNREADABLE";
  return {code, text("Expected a readable weight file at ", path, " but received: ", std::strerror(error))};
}

}  // namespace

// Nothing but a regular file is opened to the end: a pipe would wait for its writer.
Mapping::Mapping(std::string path) : path_(std::move(path)) {
  CHECK(path_.find('\0') == std::string::npos, "FILE_NOT_FOUND", "Expected the path of a weight file but received one with a zero byte");
  const int file = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) throw refusal(path_, errno);
  struct stat info{};
  void* data = MAP_FAILED;
  const bool known = fstat(file, &info) == 0, is_regular = known && S_ISREG(info.st_mode);
  if (is_regular && info.st_size > 0) data = mmap(nullptr, info.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  const int error = errno;
  close(file);
  CHECK(!known || is_regular, "FILE_UNREADABLE", "Expected a weight file at ", path_, " but received a folder, a pipe or a device");
  CHECK(!known || info.st_size > 0, "WEIGHTS_TRUNCATED", "Expected tensors in ", path_, " but the file is empty");
  if (data == MAP_FAILED) throw refusal(path_, error);
  size_ = info.st_size;
  device_ = info.st_dev;
  inode_ = info.st_ino;
  try {
    range_ = Range::add(data, size_);
  } catch (...) {
    munmap(data, size_);
    throw;
  }
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action{};
    action.sa_sigaction = Range::on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGBUS, &action, &previous);
  });
}

Mapping::~Mapping() {
  const uintptr_t begin = range_->begin;
  range_->set(0, 0);
  munmap(reinterpret_cast<void*>(begin), size_);
}

const unsigned char* Mapping::data() const { return reinterpret_cast<const unsigned char*>(range_->begin.load()); }

void Mapping::release(const unsigned char* begin, const unsigned char* end) const {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t from = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page;
  // The mapping's last page ends with it.
  const uintptr_t to = end == data() + size_ ? reinterpret_cast<uintptr_t>(end) : reinterpret_cast<uintptr_t>(end) / page * page;
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

// The rest of the file's last page reads as zeros without a signal: its size tells.
void Mapping::check() const {
  struct stat now{};
  const bool is_same = stat(path_.c_str(), &now) == 0 && now.st_dev == device_ && now.st_ino == inode_;
  const bool is_shorter = is_same && static_cast<size_t>(now.st_size) < size_;
  CHECK(!range_->is_lost && !is_shorter, "WEIGHTS_TRUNCATED", "Expected ", path_,
        " to stay as it is during a run but it was cut short, or its disk failed");
}

}  // namespace lorafuse
