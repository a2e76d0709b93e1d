// The lanes of a credit rule, one after another or shared out among threads.
#pragma once
#include "abi.hpp"
#include "push.hpp"
#include "team.hpp"

namespace KERNELS {

template <class T>
inline size_t bytes_of(const Sizes& z) {
  Arena arena(nullptr);
  T(arena, z);
  return arena.used();
}

constexpr double WORTH_SHARING = 2e6;  // multiply-adds, about forty microseconds

inline int threads_for(const Observation& o, const Sizes& z) {
  const double columns = double(z.columns) * z.groups * (o.rule == RTRL ? z.M : 1);
  if (columns * z.S * z.N * o.B < WORTH_SHARING) return 1;
  return int(std::max<int64_t>(1, std::min<int64_t>({o.threads, o.B, MOST_THREADS})));
}

// A thread has a work space; a lane has a share in the gradient, which one thread alone adds at once.
template <class Work, class Share>
struct Lanes {
  typedef void Each(const Observation&, const Sizes&, const Work&, const Share&, int64_t b);
  const Observation& o;
  const Sizes& z;
  Each* each;
  const int threads, blocks;  // of rows
  const size_t work, share;   // bytes

  Lanes(const Observation& o_, const Sizes& z_, Each* each_)
      : o(o_), z(z_), each(each_), threads(threads_for(o, z)), blocks(std::min(4 * threads, z.Z)),
        work(bytes_of<Work>(z)), share(bytes_of<Share>(z)) {}

  size_t bytes() const { return threads > 1 ? threads * work + o.B * share : work + share; }
  char* share_of(int64_t b) const { return o.work + threads * work + b * share; }

  void run() const {
    if (threads > 1) {
      Team::share(threads, o.B, [](void* self, int64_t b, int place) { static_cast<Lanes*>(self)->lane(b, place); },
                  const_cast<Lanes*>(this));
      Team::share(threads, blocks, [](void* self, int64_t i, int) { static_cast<Lanes*>(self)->add(i); },
                  const_cast<Lanes*>(this));
      return;
    }
    Arena arena(o.work);
    const Work space(arena, z);
    const Share mine(arena, z);
    for (int64_t b = 0; b < o.B; b++) {
      if (!o.live[b]) continue;
      *mine.counts = false;
      each(o, z, space, mine, b);
      mine.add(z, 0, z.Z, o.gradient);
    }
  }

  void lane(int64_t b, int place) const {
    Arena of_thread(o.work + place * work), of_lane(share_of(b));
    const Share mine(of_lane, z);
    *mine.counts = false;
    if (o.live[b]) each(o, z, Work(of_thread, z), mine, b);
  }

  // The rows of block i, of all lanes in their order.
  void add(int64_t i) const {
    const int from = int(z.Z * i / blocks), end = int(z.Z * (i + 1) / blocks);
    for (int64_t b = 0; b < o.B; b++) {
      Arena of_lane(share_of(b));
      Share(of_lane, z).add(z, from, end, o.gradient);
    }
  }
};

}  // namespace KERNELS
