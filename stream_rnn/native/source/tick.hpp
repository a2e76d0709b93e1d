// One whole tick of a learner whose parts are all shipped ones: stream_rnn/learner.py, step().
#pragma once
#include "cells.hpp"
#include "readout.hpp"
#include "update.hpp"
#include "window.hpp"

namespace KERNELS {

constexpr float ABSURD = 1e6f, DIVERGED = 1e15f;  // stream_rnn/learner.py

inline bool within(const float* x, int n, float limit) {  // NaN is not
  bool sound = true;
  for (int i = 0; i < n; i++) sound &= std::fabs(x[i]) <= limit;
  return sound;
}

struct TickWork {
  float *candidate, *drive, *carry, *u, *q, *o, *slope, *features, *head_gradient, *z;
  uint8_t *live, *ready, *scored;
  TickWork(Arena& arena, const Plan& plan, const Sizes& z_) {
    const size_t B = plan.credit.B, S = z_.S, F = z_.N + plan.I + 1;
    candidate = arena.take<float>(B * S);
    drive = arena.take<float>(B * z_.K * z_.Z);
    carry = arena.take<float>(B * z_.K * S);
    u = arena.take<float>(B * z_.M);
    q = arena.take<float>(B * S);
    o = arena.take<float>(B * plan.P);
    slope = arena.take<float>(B * plan.P);
    features = arena.take<float>(B * F);
    head_gradient = arena.take<float>(plan.P * F);
    z = arena.take<float>(z_.Z);
    live = arena.take<uint8_t>(B);
    ready = arena.take<uint8_t>(B);
    scored = arena.take<uint8_t>(B);
  }
};

// h_t and o_t of a lane from state s_tm1; what the cell reads is [x, h_tm1, 1].
static void forward(const Plan& plan, const Sizes& z, const TickWork& w, const float* x,
                    const float* s_tm1, float* s_t, float* u, float* drive, float* carry) {
  const int I = int(plan.I);
  const float* W = plan.recurrent.parameter;
  std::memcpy(u, x, sizeof(float) * I);
  std::memcpy(u + I, s_tm1, sizeof(float) * z.N);
  u[I + z.N] = 1;
  drive_of(z.Z, z.M, W, u, w.z);
  activate(plan.cell, z.N, w.z, s_tm1, s_t, drive, carry);
}

static void read_out(const Plan& plan, const Sizes& z, const float* h, const float* x, float* features,
                     float* o) {
  const int I = int(plan.I), F = z.N + I + 1;
  std::memcpy(features, h, sizeof(float) * z.N);
  std::memcpy(features + z.N, x, sizeof(float) * I);
  features[F - 1] = 1;
  drive_of(int(plan.P), F, plan.readout.parameter, features, o);
}

void observe(const Observation* o);

static void run(const Plan& plan, const Tick& tick) {
  Observation o = plan.credit;
  const Sizes z(o);
  Arena arena(plan.work);
  const TickWork w(arena, plan, z);
  const int64_t B = o.B;
  const int I = int(plan.I), P = int(plan.P), Q = int(plan.Q), F = z.N + I + 1, k = int(plan.horizon);
  uint8_t *learned = tick.learned + tick.slot * B, *rejected = tick.rejected + tick.slot * B;
  uint8_t *restarted = tick.restarted + tick.slot * B, *updated = tick.updated + tick.slot;
  float *prediction = tick.prediction + tick.slot * B * P, *loss = tick.loss + tick.slot * B;

  // the forward pass: which events are sane, and what comes out
  int64_t n_scored = 0;
  for (int64_t b = 0; b < B; b++) {
    const float *x = tick.x + b * I, *y = tick.y + b * Q;
    bool live = tick.live[b], scored = live && tick.scored[b];
    live = live && within(x, I, ABSURD) && (!scored || within(y, Q, ABSURD));
    const float* x_learn = x;
    bool ready = live;
    if (k) {
      ready = live && plan.count[b] >= k;
      x_learn = plan.waiting + (b * k + wrapped(plan.count[b], k)) * I;
    }
    scored = scored && ready;
    if (ready) {
      float *s_t = w.candidate + b * z.S, *out = w.o + b * P;
      forward(plan, z, w, x_learn, plan.s + b * z.S, s_t, w.u + b * z.M, w.drive + b * z.K * z.Z,
              w.carry + b * z.K * z.S);
      read_out(plan, z, s_t, x_learn, w.features + b * F, out);
      if (!within(s_t, z.N, DIVERGED) || !within(out, P, DIVERGED)) live = ready = scored = false;
    }
    w.live[b] = live;
    w.ready[b] = ready;
    w.scored[b] = scored;
    n_scored += scored;
    learned[b] = scored;
    rejected[b] = tick.live[b] && !live;
  }

  // the loss, its slope, and what it asks of the recurrence; new states are committed
  std::memset(w.head_gradient, 0, sizeof(float) * P * F);
  std::memset(w.q, 0, sizeof(float) * B * z.S);
  for (int64_t b = 0; b < B; b++) {
    loss[b] = 0;
    if (w.scored[b]) {
      float *slope = w.slope + b * P, *q = w.q + b * z.S;
      loss[b] = evaluate(plan, w.o + b * P, tick.y + b * Q, slope);
      for (int i = 0; i < P; i++) {
        const float s = slope[i] /= float(n_scored);
        const float *V = plan.readout.parameter + size_t(i) * F, *features = w.features + b * F;
        float* gradient = w.head_gradient + size_t(i) * F;
        for (int n = 0; n < z.N; n++) q[n] += s * V[n];
        for (int n = 0; n < F; n++) gradient[n] += s * features[n];
      }
    }
    if (w.ready[b]) std::memcpy(plan.s + b * z.S, w.candidate + b * z.S, sizeof(float) * z.S);
  }

  // credit
  o.drive = w.drive;
  o.carry = w.carry;
  o.input = w.u;
  o.q = w.q;
  o.live = w.ready;
  o.signs = tick.signs;
  o.pays = tick.pays;
  o.work = arena.rest();
  observe(&o);
  if (plan.mask && tick.pays)
    for (int64_t i = 0; i < plan.recurrent.size; i++) o.gradient[i] = plan.mask[i] ? o.gradient[i] : 0.0f;

  // updates: a zero gradient is not a no-op, an update needs a lane that is owed one and sound
  *updated = 0;
  bool is_owed = false;
  for (int64_t b = 0; b < B; b++) {
    restarted[b] = w.ready[b] && !o.healthy[b];
    if (!tick.frozen) plan.owed[b] |= w.scored[b];
    is_owed |= plan.owed[b] && o.healthy[b];
  }
  if (!tick.frozen) {
    update(plan.readout, w.head_gradient, n_scored > 0);
    if (tick.pays) *updated = update(plan.recurrent, o.gradient, is_owed);
  }
  if (tick.pays) std::memset(plan.owed, 0, B);

  // what is published: of the event itself, or of the second state, k events ahead
  for (int64_t b = 0; b < B; b++) {
    float* out = prediction + b * P;
    if (!w.live[b]) {
      std::memset(out, 0, sizeof(float) * P);
      continue;
    }
    if (k) {
      const float* x = tick.x + b * I;
      float *ahead = plan.ahead + b * z.S, *next = w.candidate + b * z.S;
      std::memcpy(plan.waiting + (b * k + wrapped(plan.count[b], k)) * I, x, sizeof(float) * I);
      plan.count[b]++;
      forward(plan, z, w, x, ahead, next, w.u + b * z.M, nullptr, nullptr);
      std::memcpy(ahead, next, sizeof(float) * z.S);
      read_out(plan, z, ahead, x, w.features + b * F, out);
    } else {
      std::memcpy(out, w.o + b * P, sizeof(float) * P);
    }
    publish(plan, out);
  }
}

}  // namespace KERNELS
