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
    vf a = {}, b = {}, c = {}, d = {};
    int m = 0;
    for (; m + VL <= M; m += VL) {
      const vf x = load(u + m);
      a += x * load(w + m);
      b += x * load(w + M + m);
      c += x * load(w + 2 * M + m);
      d += x * load(w + 3 * M + m);
    }
    float rest[4] = {sum(a), sum(b), sum(c), sum(d)};
    for (; m < M; m++)
      for (int i = 0; i < 4; i++) rest[i] += u[m] * w[size_t(i) * M + m];
    for (int i = 0; i < 4; i++) z[row + i] = rest[i];
  }
  for (; row < Z; row++) z[row] = dot(W + size_t(row) * M, u, M);
}

// s_t (S) from z (Z) and s_tm1 (S); with `drive` (K, G, N) and `carry` (K, K, N) also the derivatives.
static void activate(int64_t cell, int N, const float* __restrict z, const float* __restrict s_tm1,
                     float* __restrict s_t, float* __restrict drive, float* __restrict carry) {
  if (cell == TANH) {
    for (int n = 0; n < N; n++) s_t[n] = tanh_(z[n]);
    if (!drive) return;
    for (int n = 0; n < N; n++) drive[n] = 1 - s_t[n] * s_t[n];
    std::memset(carry, 0, sizeof(float) * N);
  } else if (cell == GRU) {
    for (int n = 0; n < N; n++) {
      const float r = logistic(z[n]), keep = logistic(z[N + n]);
      const float nh = z[3 * N + n], v = tanh_(z[2 * N + n] + r * nh);
      s_t[n] = v + keep * (s_tm1[n] - v);
      if (!drive) continue;
      const float d = (1 - keep) * (1 - v * v);
      drive[n] = d * nh * r * (1 - r);
      drive[N + n] = (s_tm1[n] - v) * keep * (1 - keep);
      drive[2 * N + n] = d;
      drive[3 * N + n] = d * r;
      carry[n] = keep;
    }
  } else if (cell == RHN) {
    for (int n = 0; n < N; n++) {
      const float s = logistic(z[n]), c = 2 * s - 1, f = logistic(z[N + n]);
      s_t[n] = c + f * (s_tm1[n] - c);
      if (!drive) continue;
      drive[n] = (1 - f) * 2 * s * (1 - s);
      drive[N + n] = (s_tm1[n] - c) * f * (1 - f);
      carry[n] = f;
    }
  } else {
    for (int n = 0; n < N; n++) {
      const float i = logistic(z[n]), f = logistic(z[N + n]), g = tanh_(z[2 * N + n]);
      const float o = logistic(z[3 * N + n]), c_tm1 = s_tm1[N + n];
      const float c_t = f * c_tm1 + i * g, T = tanh_(c_t);
      s_t[n] = o * T;
      s_t[N + n] = c_t;
      if (!drive) continue;
      const float kappa = o * (1 - T * T);
      const float di = g * i * (1 - i), df = c_tm1 * f * (1 - f), dg = i * (1 - g * g);
      drive[n] = kappa * di;
      drive[N + n] = kappa * df;
      drive[2 * N + n] = kappa * dg;
      drive[3 * N + n] = T * o * (1 - o);
      drive[4 * N + n] = di;
      drive[5 * N + n] = df;
      drive[6 * N + n] = dg;
      drive[7 * N + n] = 0;
      carry[n] = 0;
      carry[N + n] = kappa * f;
      carry[2 * N + n] = 0;
      carry[3 * N + n] = f;
    }
  }
}

}  // namespace KERNELS
