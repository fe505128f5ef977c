// SPDX-License-Identifier: Apache-2.0
#include "layer_schedule.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <vector>

namespace sd {
namespace {

template <typename T>
size_t room(int64_t count) {
  return Buffer::size<T>(static_cast<size_t>(count));
}
template <typename T>
T *take(Buffer &buffer, int64_t count) {
  return buffer.take<T>(static_cast<size_t>(count));
}

// The size of the widest input of a product.
int64_t quantized_bytes(const EncoderLayer &layer, int64_t rows) {
  return rows * activation_stride(std::max(layer.hidden, layer.intermediate));
}
size_t activation_bytes(const EncoderLayer &layer, int64_t rows) {
  return room<uint8_t>(quantized_bytes(layer, rows)) + 2 * room<float>(rows);
}
Activations take_activations(const EncoderLayer &layer, Buffer &buffer, int64_t rows) {
  uint8_t *x = take<uint8_t>(buffer, quantized_bytes(layer, rows));
  float *scale = take<float>(buffer, rows);
  return {x, 0, scale, take<float>(buffer, rows)};  // each product has a separate stride
}

int64_t context_bytes(const EncoderLayer &layer, int64_t rows) {
  return rows * context_stride(layer) * static_cast<int64_t>(layer.set->reduced_size);
}
int64_t wide_bytes(const EncoderLayer &layer, int64_t rows) {
  return rows * wide_stride(layer) * static_cast<int64_t>(layer.set->reduced_size);
}

// All rows and columns of a step.
Share whole(const LayerCall &call, const Step &step, int64_t from, int64_t to) {
  return {from, to, 0, call.layer.heads, 0, step.chunks ? step.chunks(call.layer) : 0};
}

void run_step(const LayerCall &call, const Step &step, const Share &share, const Tensors &tensors) {
  Timed timed(step.part);
  step.run(call, share, tensors);
}

// The steps before or after attention, and their rows.
struct Half {
  int begin, end;
  int64_t rows;

  bool output() const { return begin >= kFirstOutputStep; }
};

// ---- by tokens ----------------------------------------------------------------------------------------------------

Tensors block_tensors(const LayerCall &call, const Half &half, int64_t from, int64_t to) {
  const EncoderLayer &layer = call.layer;
  const int64_t rows = to - from;
  const size_t scratch = attention_scratch(call);
  Buffer &buffer = thread_buffer();
  buffer.reserve(activation_bytes(layer, rows) + room<uint8_t>(context_bytes(layer, rows)) +
                 room<uint8_t>(wide_bytes(layer, rows)) + room<float>(rows * layer.hidden) +
                 room<float>(row_width(layer)) + Buffer::size<uint8_t>(scratch));
  Tensors t;
  t.first = from;
  t.rows = rows;
  t.a = take_activations(layer, buffer, rows);
  t.row = take<float>(buffer, row_width(layer));
  if (!half.output()) return t;
  t.context = take<uint8_t>(buffer, context_bytes(layer, rows));
  t.wide = take<uint8_t>(buffer, wide_bytes(layer, rows));
  t.attended = t.hidden = take<float>(buffer, rows * layer.hidden);
  t.scratch = buffer.take<uint8_t>(scratch);
  t.sum = call.y + from * layer.hidden;
  return t;
}

Phase token_phase(const LayerCall &call, const Half &half, int64_t threads) {
  const int64_t blocks = token_blocks(half.rows, threads);
  return {blocks, [&call, half, blocks](int64_t block) {
            const int64_t from = half.rows * block / blocks, to = half.rows * (block + 1) / blocks;
            const Tensors tensors = block_tensors(call, half, from, to);
            for (int i = half.begin; i < half.end; ++i)
              run_step(call, kSteps[i], whole(call, kSteps[i], from, to), tensors);
          }};
}

// ---- by columns ---------------------------------------------------------------------------------------------------

class ColumnRun {
 public:
  ColumnRun(const LayerCall &call, const Half &half, Buffer &buffer, int64_t threads)
      : call_(call), half_(half), threads_(threads), id_(next_id()) {
    const EncoderLayer &layer = call.layer;
    const int64_t rows = half.rows;
    shared_.rows = rows;
    if (!half.output()) return;
    shared_.context = take<uint8_t>(buffer, context_bytes(layer, rows));
    shared_.wide = take<uint8_t>(buffer, wide_bytes(layer, rows));
    shared_.attended = take<float>(buffer, rows * layer.hidden);
    shared_.sum = take<float>(buffer, rows * layer.hidden);  // not y, which may be x
  }

  // A phase for each distributed step; each thread does the steps in between itself, before the phase.
  void add_phases(std::vector<Phase> &phases) const {
    for (int i = half_.begin; i < half_.end; ++i)
      if (kSteps[i].split != kOwnRows)
        phases.push_back({items(kSteps[i]), [this, i](int64_t item) { run(i, item); }});
  }

 private:
  // A thread's own tensors, and the first step that the thread has not done itself.
  struct Own {
    uint64_t id = 0;
    int next = 0;
    Tensors tensors;
  };

  static uint64_t next_id() {
    static std::atomic<uint64_t> id{0};
    return ++id;
  }

  int64_t items(const Step &step) const {
    switch (step.split) {
      case kColumns: return step.chunks(call_.layer);
      case kHeads: return call_.batch.size() * call_.layer.heads;
      default: return std::min(shared_.rows, threads_);
    }
  }

  Share share(const Step &step, int64_t item) const {
    Share s = whole(call_, step, 0, shared_.rows);
    if (step.split == kColumns) {
      s.chunk_begin = item;
      s.chunk_end = item + 1;
    } else if (step.split == kHeads) {
      const size_t sequence = static_cast<size_t>(item / call_.layer.heads);
      s.row_begin = call_.batch.output_first[sequence];
      s.row_end = call_.batch.output_first[sequence + 1];
      s.head_begin = item % call_.layer.heads;
      s.head_end = s.head_begin + 1;
    } else {
      const int64_t count = items(step);
      s.row_begin = shared_.rows * item / count;
      s.row_end = shared_.rows * (item + 1) / count;
    }
    return s;
  }

  Tensors own_tensors() const {
    const EncoderLayer &layer = call_.layer;
    const size_t scratch = attention_scratch(call_);
    Buffer &buffer = thread_buffer();
    buffer.reserve(activation_bytes(layer, shared_.rows) + room<float>(shared_.rows * layer.hidden) +
                   room<float>(row_width(layer)) + Buffer::size<uint8_t>(scratch));
    Tensors t = shared_;
    t.a = take_activations(layer, buffer, shared_.rows);
    t.hidden = take<float>(buffer, shared_.rows * layer.hidden);
    t.row = take<float>(buffer, row_width(layer));
    t.scratch = buffer.take<uint8_t>(scratch);
    return t;
  }

  void run(int i, int64_t item) const {
    static thread_local Own own;
    if (own.id != id_) {
      own.id = 0;  // until own_tensors() has succeeded
      own.tensors = own_tensors();
      own.next = half_.begin;
      own.id = id_;
    }
    for (; own.next < i; ++own.next) {
      const Step &before = kSteps[own.next];
      if (before.split == kOwnRows) run_step(call_, before, whole(call_, before, 0, shared_.rows), own.tensors);
    }
    run_step(call_, kSteps[i], share(kSteps[i], item), own.tensors);
  }

  const LayerCall &call_;
  const Half half_;
  const int64_t threads_;
  const uint64_t id_;
  Tensors shared_;
};

}  // namespace

void run_steps(const LayerCall &call, Buffer &buffer, const sd_pool *pool) {
  const int64_t threads = thread_count(pool);
  const Half halves[] = {{0, kFirstOutputStep, call.batch.tokens},
                         {kFirstOutputStep, kStepCount, call.batch.output_rows}};
  std::vector<Phase> phases;
  std::optional<ColumnRun> by_columns[2];
  for (int i = 0; i < 2; ++i) {
    if (split_by_tokens(halves[i].rows, threads))
      phases.push_back(token_phase(call, halves[i], threads));
    else
      by_columns[i].emplace(call, halves[i], buffer, threads).add_phases(phases);
  }
  run_phases(pool, phases);
}

size_t schedule_bytes(const EncoderLayer &layer, const Batch &batch, const sd_pool *pool) {
  const int64_t rows = batch.output_rows;
  if (split_by_tokens(rows, thread_count(pool))) return 0;
  return room<uint8_t>(context_bytes(layer, rows)) + room<uint8_t>(wide_bytes(layer, rows)) +
         2 * room<float>(rows * layer.hidden);
}

}  // namespace sd
