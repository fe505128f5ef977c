// SPDX-License-Identifier: Apache-2.0
#include "memory.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <new>

namespace sd {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kRegion = size_t{8} << 20;
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// Number of allocations until one fails. Counting costs a locked addition, small against the cost of an allocation.
std::atomic<int64_t> remaining{kNever};
std::atomic<int64_t> counted_from{kNever};
std::atomic<uint32_t> generation{0};  // buffers of an older generation release their memory

bool may_allocate() { return remaining.fetch_sub(1, std::memory_order_relaxed) != 0; }

void *allocate(size_t size) {
  if (may_allocate())
    if (void *memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}

void *allocate_aligned(size_t alignment, size_t size) {
  if (may_allocate())
    if (void *memory = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment)) return memory;
  throw std::bad_alloc();
}

struct Region {
  uint8_t *data;
  size_t size;

  explicit Region(size_t bytes) : size((bytes + kHugePage - 1) / kHugePage * kHugePage) {
    data = static_cast<uint8_t *>(allocate_aligned(kHugePage, size));
    madvise(data, size, MADV_HUGEPAGE);
    // One thread touches the pages here, in order, instead of the first thread that packs.
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
  const uint32_t current = generation.load(std::memory_order_relaxed);
  if (bytes <= capacity_ && generation_ == current) return;
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  std::free(data_);
  data_ = nullptr;
  capacity_ = 0;
  data_ = static_cast<uint8_t *>(allocate_aligned(kHugePage, bytes));
  capacity_ = bytes;
  generation_ = current;
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
  try {
    free_buffers().push_back(std::move(buffer_));
  } catch (const std::bad_alloc &) {
    buffer_.reset();  // the next call makes a new buffer
  }
}

int64_t fail_allocation(int64_t after) {
  const int64_t from = after < 0 ? kNever : after;
  generation.fetch_add(1, std::memory_order_relaxed);
  {
    std::lock_guard<std::mutex> lock(free_mutex);
    free_buffers().clear();
    free_buffers().shrink_to_fit();
  }
  const int64_t left = remaining.exchange(from, std::memory_order_relaxed);
  return counted_from.exchange(from, std::memory_order_relaxed) - left;
}

}  // namespace sd

// These replace the C++ runtime's operators inside the library only: the version script does not export them.
void *operator new(size_t size) { return sd::allocate(size); }
void *operator new[](size_t size) { return sd::allocate(size); }
void *operator new(size_t size, const std::nothrow_t &) noexcept {
  return sd::may_allocate() ? std::malloc(size ? size : 1) : nullptr;
}
void *operator new[](size_t size, const std::nothrow_t &again) noexcept { return operator new(size, again); }
void *operator new(size_t size, std::align_val_t alignment) {
  return sd::allocate_aligned(static_cast<size_t>(alignment), size);
}
void *operator new[](size_t size, std::align_val_t alignment) {
  return sd::allocate_aligned(static_cast<size_t>(alignment), size);
}
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete[](void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, size_t) noexcept { std::free(memory); }
void operator delete[](void *memory, size_t) noexcept { std::free(memory); }
void operator delete(void *memory, const std::nothrow_t &) noexcept { std::free(memory); }
void operator delete[](void *memory, const std::nothrow_t &) noexcept { std::free(memory); }
void operator delete(void *memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void *memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void *memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void *memory, size_t, std::align_val_t) noexcept { std::free(memory); }
