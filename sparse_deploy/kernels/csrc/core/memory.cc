// SPDX-License-Identifier: Apache-2.0
#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <mutex>
#include <new>

namespace sd {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kRegion = size_t{8} << 20;

struct Region {
  uint8_t *data;
  size_t size;

  explicit Region(size_t bytes) : size((bytes + kHugePage - 1) / kHugePage * kHugePage) {
    data = static_cast<uint8_t *>(std::aligned_alloc(kHugePage, size));
    if (!data) throw std::bad_alloc();
    madvise(data, size, MADV_HUGEPAGE);
    // Touched here, by one thread and in order, instead of by whichever thread packs first.
    for (size_t i = 0; i < size; i += 64) __builtin_memset(data + i, 0, 64);
  }
  ~Region() { std::free(data); }
  Region(const Region &) = delete;
  Region &operator=(const Region &) = delete;
};

}  // namespace

Block allocate_block(size_t size) {
  static std::mutex mutex;
  static std::weak_ptr<Region> current;
  static size_t used;
  size = (size + 127) / 128 * 128;
  std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Region> region = current.lock();
  if (!region || used + size > region->size) {
    region = std::make_shared<Region>(size > kRegion ? size : kRegion);
    current = region;
    used = 0;
  }
  uint8_t *data = region->data + used;
  used += size;
  return Block(std::move(region), data);
}

Buffer::~Buffer() { std::free(data_); }

void Buffer::reserve(size_t bytes) {
  used_ = 0;
  if (bytes <= capacity_) return;
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  std::free(data_);
  capacity_ = 0;
  data_ = static_cast<uint8_t *>(std::aligned_alloc(kHugePage, bytes));
  if (!data_) throw std::bad_alloc();
  capacity_ = bytes;
  madvise(data_, bytes, MADV_HUGEPAGE);
}

Buffer &thread_buffer() {
  static thread_local Buffer buffer;
  return buffer;
}

namespace {
std::mutex free_mutex;
std::vector<std::unique_ptr<Buffer>> &free_buffers() {
  static auto *buffers = new std::vector<std::unique_ptr<Buffer>>();  // outlives static destructors of the host
  return *buffers;
}
}  // namespace

CallBuffer::CallBuffer() {
  {
    std::lock_guard<std::mutex> lock(free_mutex);
    if (!free_buffers().empty()) {
      buffer_ = std::move(free_buffers().back());
      free_buffers().pop_back();
    }
  }
  if (!buffer_) buffer_ = std::make_unique<Buffer>();
}

CallBuffer::~CallBuffer() {
  std::lock_guard<std::mutex> lock(free_mutex);
  free_buffers().push_back(std::move(buffer_));
}

}  // namespace sd
