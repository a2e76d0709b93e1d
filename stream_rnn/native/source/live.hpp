// The lanes that have an event in a tick. There may be thousands of others, which cost a few bytes each.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

namespace KERNELS {

struct Live {
  const int64_t* lanes;  // in their order
  int64_t n;
  const int64_t* begin() const { return lanes; }
  const int64_t* end() const { return lanes + n; }
};

// Those of B lanes that are marked, written to `lanes`.
inline Live live_lanes(const uint8_t* marks, int64_t B, int64_t* lanes) {
  int64_t n = 0;
  for (int64_t b = 0; b < B;) {
    const int64_t end = std::min(b + 8, B);
    uint64_t eight = 0;
    std::memcpy(&eight, marks + b, end - b);
    for (; eight && b < end; b++)
      if (marks[b]) lanes[n++] = b;
    b = end;
  }
  return {lanes, n};
}

}  // namespace KERNELS
