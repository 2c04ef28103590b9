// Prefetches cached tiles of keys and values while others are computed with.
#pragma once

#include "flash.hpp"

namespace rowspan::ROWSPAN_ISA {

// The tiles of a chunk, and the first ones of the next, in the order in which they are computed with. They are asked for a
// few lines at a time, evenly: a core has few requests to memory under way at once, and stands still when it asks for more.
// A step's keys and values then arrive at 0.8 to 0.9 of the rate at which reading alone would have them.
class Upcoming {
  public:
    // Those of the chunk that come first were asked for with the chunk before.
    void begin(const Chunk& chunk, const Chunk& next) {
        count_ = 0;
        add(chunk, kMost);
        next_ = lower(count_, kTilesAhead);
        add(next, count_ + kTilesAhead);
        to_tile();
    }

    void ask(size_t lines) {
        for (size_t i = 0; i < lines && at_ != end_; ++i) {
            ask_of_stream(at_);
            at_ += kLine;
            if (at_ == end_) to_tile();
        }
    }

  private:
    static constexpr size_t kLine = 64;
    static constexpr size_t kTilesAhead = 4, kMost = 2 * kKeyChunk / kTileRows;

    void add(const Chunk& chunk, size_t most) {
        for (const CachedRows* rows : {&chunk.k, &chunk.v}) {
            if (!rows->has_tiles()) return;
            for (size_t at = chunk.positions.from / kTileRows * kTileRows; at < chunk.positions.to; at += kTileRows) {
                if (count_ == most) return;
                tiles_[count_++] = {reinterpret_cast<const char*>(rows->tile(at)), kTileRows * rows->size * sizeof(int16_t)};
            }
        }
    }
    void to_tile() {
        const Tile tile = next_ < count_ ? tiles_[next_++] : Tile{nullptr, 0};
        at_ = tile.at;
        end_ = at_ + tile.bytes;
    }

    struct Tile {
        const char* at;
        size_t bytes;
    };

    Tile tiles_[kMost + kTilesAhead];
    size_t count_ = 0, next_ = 0;
    const char *at_ = nullptr, *end_ = nullptr;
};

}  // namespace rowspan::ROWSPAN_ISA
