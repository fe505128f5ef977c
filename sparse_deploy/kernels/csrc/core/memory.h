// SPDX-License-Identifier: Apache-2.0
// Memory of packed weights and of the buffers of a call. Every allocation of the library, including operator new, calls
// one function, in which a test can make it fail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace sd {

// Zeroed, 64-byte aligned, in huge pages if the kernel grants them: bert-base at 70 % reads 58 MB of packed weights per
// request (benchmarks/notes.md), and 4 KB pages would cost a TLB miss every 16 steps. Small blocks share a region; a
// region is freed with its last block.
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

// A buffer for one call, shared by its threads. The most recently returned buffer is reused first, because it is still
// in the caches; so the layers of a model share one buffer.
class CallBuffer {
 public:
  CallBuffer();
  ~CallBuffer();
  Buffer *operator->() { return buffer_.get(); }
  Buffer &operator*() { return *buffer_; }

 private:
  std::unique_ptr<Buffer> buffer_;
};

// For tests: the allocation after the next `after` allocations fails, once, in any thread; a negative number switches
// this off. Buffers release their memory, so that the next call allocates like the first call. Returns the number of
// allocations since the last call.
int64_t fail_allocation(int64_t after);

}  // namespace sd
