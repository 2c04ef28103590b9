// What one stage of a pipeline hands to the ranks of the next one: hidden states, through memory that all of them map.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "counter.hpp"
#include "team.hpp"

namespace rowspan {

// One sender, several receivers, each of whom takes every message; kDepth messages may wait. Message n lies in slot
// n % kDepth. Every thread of a rank's team calls with its own range of floats.
class StageLink {
  public:
    // A stage may be one step ahead of the next one, and writing the one after that.
    static constexpr size_t kDepth = 2;

    static size_t nbytes(size_t receivers, size_t slot) {
        return (1 + receivers) * sizeof(Counter) + kDepth * sizeof(float) * slot;
    }

    // memory: nbytes(), zero-filled at first; slot: floats of the longest message; spins: see Counter.
    StageLink(void* memory, size_t receivers, size_t slot, size_t spins)
        : sent_(static_cast<Counter*>(memory)), taken_(sent_ + 1),
          slots_(reinterpret_cast<float*>(taken_ + receivers)), receivers_(receivers), slot_(slot), spins_(spins) {}

    void send(uint32_t message, const float* x, Range part, const Team& team) {
        for (size_t receiver = 0; receiver < receivers_; ++receiver)
            taken_[receiver].wait(message + 1 - static_cast<uint32_t>(kDepth), spins_);
        std::memcpy(slot(message) + part.from, x + part.from, (part.to - part.from) * sizeof(float));
        if (together_.last(team.count)) sent_->add(1);
    }

    void receive(uint32_t message, size_t receiver, float* out, Range part, const Team& team) {
        sent_->wait(message + 1, spins_);
        std::memcpy(out + part.from, slot(message) + part.from, (part.to - part.from) * sizeof(float));
        if (together_.last(team.count)) taken_[receiver].add(1);
    }

  private:
    float* slot(uint32_t message) const { return slots_ + message % kDepth * slot_; }

    Counter* const sent_;
    Counter* const taken_;
    float* const slots_;
    const size_t receivers_, slot_, spins_;
    Together together_;
};

}  // namespace rowspan
