// Element-wise units under a layer without recurrence (stream_rnn/recurrence/feedforward.py).
#pragma once
#include <cfloat>

#include "cells.hpp"
#include "elementwise.hpp"

namespace KERNELS {

struct StackNet final : Net {
  const Plan& plan;
  UnitNet below;            // the layer reads all S numbers of its state
  const int N;              // width of the layer
  float *u, *h, *dz, *q;    // (B, S+1), (B, N), (B, N), (B, S)

  StackNet(Arena& arena, const Plan& plan_)
      : Net(state_size(plan_), width_of(plan_), width_of(plan_), 1), plan(plan_), below(arena, plan_), N(width) {
    const size_t B = plan.credit.B;
    u = arena.take<float>(B * (S + 1));
    h = arena.take<float>(B * N);
    dz = arena.take<float>(B * N);
    q = arena.take<float>(B * S);
  }

  static int state_size(const Plan& plan) { return UnitNet::state_size(plan); }
  static int width_of(const Plan& plan) { return int(plan.layer.N); }
  void look() const override { below.look(); }

  const float* layer(int64_t b, const float* s) const {
    float *in = u + b * (S + 1), *out = h + b * N;
    std::memcpy(in, s, sizeof(float) * S);
    in[S] = 1;
    drive_of(N, S + 1, plan.recurrent.parameters[plan.layer.W].value, in, out);
    if (plan.layer.kind == LAYER_TANH)
      by_vectors(N, [&](int n, auto at) { at.put(out + n, tanh_(at.get(out + n))); });
    else
      by_vectors(N, [&](int n, auto at) {
        const vf v = at.get(out + n);
        at.put(out + n, v <= 0 ? vf{} : v);
      });
    // a saturating layer must not hide that the units below have come apart
    if (!within(s, S, FLT_MAX)) out[0] = NAN;
    return out;
  }
  const float* forward(int64_t b, const float* x, const float* s_tm1, float* s_t) const override {
    below.forward(b, x, s_tm1, s_t);
    return layer(b, s_t);
  }
  const float* ahead(int64_t b, const float* x, const float* s_tm1, float* s_t) const override {
    return forward(b, x, s_tm1, s_t);
  }

  // What some lanes ask of the units below, and their shares in the gradient, one after another.
  template <int COUNT>
  void teach(const int64_t* lanes) const {
    const Parameter& W = plan.recurrent.parameters[plan.layer.W];
    const int N = this->N, width = S + 1;
    const float *slope[COUNT], *in[COUNT];
    float* q_of[COUNT];
    for (int b = 0; b < COUNT; b++) {
      slope[b] = dz + lanes[b] * N;
      in[b] = u + lanes[b] * width;
      q_of[b] = q + lanes[b] * S;
    }
    by_vectors(S, [&](int i, auto at) {
      vf sums[COUNT] = {};
      for (int n = 0; n < N; n++) {
        const vf w = at.get(W.value + size_t(n) * width + i);
#pragma GCC unroll 4
        for (int b = 0; b < COUNT; b++) sums[b] += slope[b][n] * w;
      }
      for (int b = 0; b < COUNT; b++) at.put(q_of[b] + i, sums[b]);
    });
    by_vectors(width, [&](int i, auto at) {
      vf v[COUNT];
      for (int b = 0; b < COUNT; b++) v[b] = at.get(in[b] + i);
      float* to = W.gradient + i;
      for (int n = 0; n < N; n++, to += width) {
        vf g = at.get(to);
#pragma GCC unroll 4
        for (int b = 0; b < COUNT; b++) g += slope[b][n] * v[b];
        at.put(to, g);
      }
    });
  }

  void learn(const Tick& tick, const Live& lanes, const uint8_t* ready, const float* const* x, const float* s,
             const float* dL_dh) override {
    const Parameter& W = plan.recurrent.parameters[plan.layer.W];
    std::memset(W.gradient, 0, sizeof(float) * W.size);
    int64_t together[TOGETHER];
    int waiting = 0;
    for (const int64_t b : lanes) {
      if (!ready[b]) continue;
      const float *out = h + b * N, *of_h = dL_dh + b * N;
      float* slope = dz + b * N;
      const bool bends = plan.layer.kind == LAYER_TANH;
      by_vectors(N, [&](int n, auto at) {
        const vf o = at.get(out + n), one = all(1.0f);
        at.put(slope + n, at.get(of_h + n) * (bends ? one - o * o : o > vf{} ? one : vf{}));
      });
      together[waiting] = b;
      if (++waiting == TOGETHER) {
        teach<TOGETHER>(together);
        waiting = 0;
      }
    }
    for (int i = 0; i < waiting; i++) teach<1>(together + i);
    below.learn(tick, lanes, ready, x, s, q);
  }
};

}  // namespace KERNELS
