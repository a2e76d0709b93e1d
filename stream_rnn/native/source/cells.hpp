// The forward pass of the shipped cells and its derivatives (stream_rnn/cells), one lane at a time.
#pragma once
#include "abi.hpp"
#include "simd.hpp"

namespace KERNELS {

// z (Z) = W (Z, M) u
static void drive_of(int Z, int M, const float* W, const float* u, float* z) {
  int row = 0;
  for (; row + 4 <= Z; row += 4) {
    const float* w = W + size_t(row) * M;
    vf sums[4] = {};
    by_vectors(M, [&](int m, auto span) {
      const vf x = span.get(u + m);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) sums[i] += x * span.get(w + size_t(i) * M + m);
    });
    sum_four(sums, z + row);
  }
  for (; row < Z; row++) z[row] = dot(W + size_t(row) * M, u, M);
}

// s_t (S) from z (Z) and s_tm1 (S); with `drive` (K, G, N) and `carry` (K, K, N) also the derivatives.
static void activate(int64_t cell, int N, const float* z, const float* s_tm1, float* s_t, float* drive, float* carry) {
  const vf one = all(1.0f), two = all(2.0f);
  by_vectors(N, [&](int n, auto at) {
    if (cell == TANH) {
      const vf s = tanh_(at.get(z + n));
      at.put(s_t + n, s);
      if (!drive) return;
      at.put(drive + n, one - s * s);
      at.put(carry + n, vf{});
    } else if (cell == GRU) {
      const vf r = logistic(at.get(z + n)), keep = logistic(at.get(z + N + n)), s = at.get(s_tm1 + n);
      const vf nh = at.get(z + 3 * N + n), v = tanh_(at.get(z + 2 * N + n) + r * nh);
      at.put(s_t + n, v + keep * (s - v));
      if (!drive) return;
      const vf d = (one - keep) * (one - v * v);
      at.put(drive + n, d * nh * r * (one - r));
      at.put(drive + N + n, (s - v) * keep * (one - keep));
      at.put(drive + 2 * N + n, d);
      at.put(drive + 3 * N + n, d * r);
      at.put(carry + n, keep);
    } else if (cell == RHN) {
      const vf p = logistic(at.get(z + n)), f = logistic(at.get(z + N + n));
      const vf c = two * p - one, s = at.get(s_tm1 + n);
      at.put(s_t + n, c + f * (s - c));
      if (!drive) return;
      at.put(drive + n, (one - f) * two * p * (one - p));
      at.put(drive + N + n, (s - c) * f * (one - f));
      at.put(carry + n, f);
    } else {
      const vf i = logistic(at.get(z + n)), f = logistic(at.get(z + N + n));
      const vf g = tanh_(at.get(z + 2 * N + n)), o = logistic(at.get(z + 3 * N + n));
      const vf c_tm1 = at.get(s_tm1 + N + n), c_t = f * c_tm1 + i * g, T = tanh_(c_t);
      at.put(s_t + n, o * T);
      at.put(s_t + N + n, c_t);
      if (!drive) return;
      const vf kappa = o * (one - T * T);
      const vf of_c[4] = {g * i * (one - i), c_tm1 * f * (one - f), i * (one - g * g), vf{}};
      for (int gate = 0; gate < 3; gate++) at.put(drive + gate * N + n, kappa * of_c[gate]);
      at.put(drive + 3 * N + n, T * o * (one - o));
      for (int gate = 0; gate < 4; gate++) at.put(drive + (4 + gate) * N + n, of_c[gate]);
      at.put(carry + n, vf{});
      at.put(carry + N + n, kappa * f);
      at.put(carry + 2 * N + n, vf{});
      at.put(carry + 3 * N + n, f);
    }
  });
}

}  // namespace KERNELS
