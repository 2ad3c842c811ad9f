// Drives a compiled sinai_core: host port, streams with gaps, and a log of its monitor port.
//
// The model is Vcore, a core in the module of verilated_core.sv. A cycle is what the ports show before a rising edge of clk; cycles are counted
// from the creation of the simulation. The monitor port is watched in every cycle.

#include <cstdint>
#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#include "Vcore.h"
#include "verilated.h"

namespace {

constexpr int kCauses = 16;

struct Compute {
  uint64_t launch = 0, cycles = 0, busy = 0, done = 0, first_event = 0, events = 0;
  uint64_t stalls[kCauses] = {};
};

// Kind: 0 a step begins, 1 it ends; 2 more for an exact step. Cycle: from the launch.
struct Event {
  uint64_t cycle, kind;
};

class Random {  // xorshift64*
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du) {}
  bool chance(double probability) {
    if (probability <= 0) return false;
    state_ ^= state_ >> 12, state_ ^= state_ << 25, state_ ^= state_ >> 27;
    return double(state_ * 0x2545f4914f6cdd1du >> 11) * 0x1p-53 < probability;
  }

 private:
  uint64_t state_;
};

class Simulation {
 public:
  Simulation() : core_(new Vcore(&context_, "sinai_bench")) { idle(); }
  ~Simulation() { core_->final(); }

  size_t word() const { return sizeof(core_->in_data); }

  void reset(uint64_t edges) {
    input_.clear(), taken_ = 0, open_ = kNone;
    idle();
    core_->rst = 1;
    while (edges--) step();
    core_->rst = 0;
    forget();
  }

  // Start the log anew.
  void forget() {
    input_.erase(input_.begin(), input_.begin() + taken_), taken_ = 0;
    output_.clear(), computes_.clear(), events_.clear();
    transfer_cycles_ = 0;
  }

  // Words of the input stream, behind those that wait; and how the streams hesitate from now on.
  void feed(const uint8_t *data, size_t bytes) { input_.insert(input_.end(), data, data + bytes); }
  void hesitate(uint64_t seed, double input, double output) {
    random_ = Random(seed), input_gaps_ = input, output_gaps_ = output;
  }

  bool access(bool write, uint32_t address, uint32_t &data, uint64_t limit) {
    core_->host_valid = 1;
    core_->host_write = write;
    core_->host_address = address;
    core_->host_write_data = data;
    bool taken = false, given = write;
    for (; !(taken && given) && limit; --limit) {
      step();
      if (!write && host_read_valid_) given = true, data = host_read_data_;
      if (!taken && host_ready_) {
        taken = true;
        core_->host_valid = 0;
        core_->host_write_data = 0xdeadbeef;
      }
    }
    core_->host_valid = 0;
    return taken && given;
  }

  // 0: the register has the value; 1: the limit is reached; 2: the host port does not answer.
  int run(uint32_t address, uint32_t mask, uint32_t value, uint64_t interval, uint64_t limit,
          uint32_t &status) {
    const uint64_t end = cycle_ + limit;
    do {
      for (uint64_t n = 0; n < interval && cycle_ < end; ++n) step();
      status = 0;
      if (!access(false, address, status, 1000)) return 2;
      if ((status & mask) == value) {
        while (output_valid_ && cycle_ < end) step();
        return 0;
      }
    } while (cycle_ < end);
    return 1;
  }

  void step() {
    if (!offering_ && taken_ < input_.size()) {
      offering_ = !random_.chance(input_gaps_);
      if (offering_) std::memcpy(&core_->in_data, &input_[taken_], word()), changed_ = true;
    }
    const bool listening = !random_.chance(output_gaps_);
    core_->in_valid = offering_;
    core_->out_ready = listening;
    core_->clk = 0;
    core_->drive = changed();
    core_->eval();

    const bool accepted = offering_ && core_->in_ready && !core_->rst;
    output_valid_ = core_->out_valid && !core_->rst;
    if (output_valid_ && listening) {
      const auto *data = reinterpret_cast<const uint8_t *>(&core_->out_data);
      output_.insert(output_.end(), data, data + word());
    }
    host_ready_ = core_->host_ready;
    host_read_valid_ = core_->host_read_valid;
    host_read_data_ = core_->host_read_data;
    if (!core_->rst) watch();

    core_->clk = 1;
    core_->drive = 0;
    core_->eval();
    context_.timeInc(1);
    ++cycle_;
    if (accepted) {
      taken_ += word();
      offering_ = false;
      std::memset(&core_->in_data, 0xa5, word());  // nothing may depend on it
      changed_ = true;
    }
  }

  uint64_t cycle() const { return cycle_; }
  uint64_t taken() const { return taken_; }
  uint64_t transfer_cycles() const { return transfer_cycles_; }
  const std::vector<uint8_t> &output() const { return output_; }
  const std::vector<Compute> &computes() const { return computes_; }
  const std::vector<Event> &events() const { return events_; }

 private:
  static constexpr size_t kNone = SIZE_MAX;

  void idle() {
    core_->host_valid = 0, core_->host_write = 0;
    core_->host_address = 0, core_->host_write_data = 0;
    core_->in_valid = 0, core_->out_ready = 0;
    offering_ = false;
  }

  // Whether an input is not what it was when this was asked last.
  bool changed() {
    const auto inputs =
        std::make_tuple(core_->rst, core_->host_valid, core_->host_write, core_->host_address,
                        core_->host_write_data, core_->in_valid, core_->out_ready);
    const bool moved = changed_ || inputs != inputs_;
    inputs_ = inputs, changed_ = false;
    return moved;
  }

  void watch() {
    transfer_cycles_ += core_->monitor_transfer;
    if (core_->monitor_running) {
      if (open_ == kNone) {
        open_ = computes_.size();
        computes_.emplace_back();
        computes_.back().launch = cycle_;
        computes_.back().first_event = events_.size();
      }
      Compute &compute = computes_[open_];
      ++compute.cycles;
      if (core_->monitor_issue) {
        ++compute.busy;
      } else {
        ++compute.stalls[core_->monitor_cause];
      }
      const uint64_t exact = core_->monitor_exact ? 2 : 0, now = cycle_ - compute.launch;
      if (core_->monitor_begin) events_.push_back({now, exact});
      if (core_->monitor_end) events_.push_back({now, exact | 1});
      compute.events = events_.size() - compute.first_event;
    }
    if (core_->monitor_done && open_ != kNone) {
      computes_[open_].done = 1;
      open_ = kNone;
    }
  }

  VerilatedContext context_;
  std::unique_ptr<Vcore> core_;
  Random random_{0};
  double input_gaps_ = 0, output_gaps_ = 0;
  uint64_t cycle_ = 0, transfer_cycles_ = 0;
  std::vector<uint8_t> input_, output_;
  size_t taken_ = 0, open_ = kNone;
  std::tuple<CData, CData, CData, SData, IData, CData, CData> inputs_;
  bool changed_ = true;  // in_data
  bool offering_ = false, output_valid_ = false, host_ready_ = false, host_read_valid_ = false;
  uint32_t host_read_data_ = 0;
  std::vector<Compute> computes_;
  std::vector<Event> events_;
};

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API Simulation *core_new() { return new Simulation; }
API void core_delete(Simulation *core) { delete core; }
API uint64_t core_word(Simulation *core) { return core->word(); }
API void core_reset(Simulation *core, uint64_t edges) { core->reset(edges); }
API void core_forget(Simulation *core) { core->forget(); }
API void core_step(Simulation *core, uint64_t cycles) {
  while (cycles--) core->step();
}
API void core_feed(Simulation *core, const uint8_t *data, uint64_t bytes) {
  core->feed(data, bytes);
}
API void core_hesitate(Simulation *core, uint64_t seed, double input, double output) {
  core->hesitate(seed, input, output);
}
API int core_access(Simulation *core, int write, uint32_t address, uint32_t *data, uint64_t limit) {
  return core->access(write, address, *data, limit);
}
API int core_run(Simulation *core, uint32_t address, uint32_t mask, uint32_t value,
                 uint64_t interval, uint64_t limit, uint32_t *status) {
  return core->run(address, mask, value, interval, limit, *status);
}
// Cycles, bytes taken, cycles of transfers, bytes of output, computes, events.
API void core_counts(Simulation *core, uint64_t counts[6]) {
  counts[0] = core->cycle(), counts[1] = core->taken(), counts[2] = core->transfer_cycles();
  counts[3] = core->output().size();
  counts[4] = core->computes().size(), counts[5] = core->events().size();
}
API const uint8_t *core_output(Simulation *core) { return core->output().data(); }
API const Compute *core_computes(Simulation *core) { return core->computes().data(); }
API const Event *core_events(Simulation *core) { return core->events().data(); }
