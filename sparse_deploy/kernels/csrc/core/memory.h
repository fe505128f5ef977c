// SPDX-License-Identifier: Apache-2.0
// Memory of packed weights and of the buffers of a call. Every allocation of the library, operator new's too, passes
// one place, where a test can make it fail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace sd {

// Zeroed, 64-byte aligned, in huge pages where the kernel grants them: bert-base streams 58 MB of packed weights per
// request, and 4 KB pages would cost a TLB miss every 16 steps. Small blocks share a region; a region is freed with
// the last block in it.
using Block = std::shared_ptr<uint8_t>;
Block allocate_block(size_t size);

// A growing buffer that keeps its memory between calls. Contents are undefined after take().
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  ~Buffer();

  void reset() { used_ = 0; }
  // 64-byte aligned; valid until the next reset(). Room for all takes must have been reserved.
  void reserve(size_t bytes);
  template <typename T>
  T *take(size_t count) {
    T *p = reinterpret_cast<T *>(data_ + used_);
    used_ += (count * sizeof(T) + 127) / 128 * 128;
    return p;
  }
  // Bytes that take<T>(count) uses.
  template <typename T>
  static size_t size(size_t count) {
    return (count * sizeof(T) + 127) / 128 * 128;
  }

 private:
  uint8_t *data_ = nullptr;
  size_t capacity_ = 0, used_ = 0;
  uint32_t generation_ = 0;
};

// A buffer of the calling thread for one task of a phase; the next task overwrites it.
Buffer &thread_buffer();

// A buffer for one call, shared by its threads. The most recently returned one is handed out first: it is the one
// that is still in the caches, and the layers of a model take turns with it.
class CallBuffer {
 public:
  CallBuffer();
  ~CallBuffer();
  Buffer *operator->() { return buffer_.get(); }
  Buffer &operator*() { return *buffer_; }

 private:
  std::unique_ptr<Buffer> buffer_;
};

// For tests: the allocation after the next `after` ones fails, once, in any thread; a negative number switches
// this off. Buffers release the memory that they have kept, so that the next call allocates as the first one did.
// Returns how many allocations were made since the last call.
int64_t fail_allocation(int64_t after);

}  // namespace sd
