// What a tick asks of a recurrence, whatever it is made of: a tick is compiled once for all of them.
#pragma once
#include "abi.hpp"
#include "live.hpp"

namespace KERNELS {

struct Net {
  const int S;        // numbers of a lane's state
  const int width;    // of what the read-out sees
  const int slopes;   // what `learn` takes of a lane: dL/ds, of which the first `width` are dL/dh, or these alone
  const int threads;  // that share the lanes of the forward pass

  Net(int S_, int width_, int slopes_, int threads_) : S(S_), width(width_), slopes(slopes_), threads(threads_) {}

  // What follows from the parameters as they are: once a tick, for all lanes.
  virtual void look() const {}
  // s_t of lane b; both return what the read-out sees, the first keeps what learning needs, too.
  virtual const float* forward(int64_t b, const float* x, const float* s_tm1, float* s_t) const = 0;
  virtual const float* ahead(int64_t b, const float* x, const float* s_tm1, float* s_t) const = 0;
  // Credit of one tick; x and s of each lane as in the forward pass, q its slopes.
  virtual void learn(const Tick& tick, const Live& lanes, const uint8_t* ready, const float* const* x, const float* s,
                     const float* q) = 0;
};

}  // namespace KERNELS
