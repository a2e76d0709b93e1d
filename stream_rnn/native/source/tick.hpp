// One whole tick of a learner whose parts are all shipped ones: stream_rnn/learner.py, step().
#pragma once
#include "cells.hpp"
#include "elementwise.hpp"
#include "lanes.hpp"
#include "least_squares.hpp"
#include "net.hpp"
#include "readout.hpp"
#include "stack.hpp"
#include "update.hpp"
#include "window.hpp"

namespace KERNELS {

constexpr float ABSURD = 1e6f, DIVERGED = 1e15f;  // stream_rnn/learner.py

void observe(const Observation* o);

// A dense cell and its credit rule, as the recurrence of a tick.
struct DenseNet final : Net {
  const Plan& plan;
  Observation o;
  const Sizes z;
  float *drive, *carry, *u, *pre;

  DenseNet(Arena& arena, const Plan& plan_)
      : Net(state_size(plan_), width_of(plan_), state_size(plan_), threads_of(plan_)),
        plan(plan_), o(plan_.credit), z(o) {
    const size_t B = o.B;
    drive = arena.take<float>(B * z.K * z.Z);
    carry = arena.take<float>(B * z.K * S);
    u = arena.take<float>(B * z.M);
    pre = arena.take<float>(B * z.Z);
    o.work = arena.rest();
  }

  static int state_size(const Plan& plan) { return int(plan.credit.K * plan.credit.N); }
  static int width_of(const Plan& plan) { return int(plan.credit.N); }
  static int threads_of(const Plan& plan) {
    return plan.credit.rule == TBPTT ? 1 : threads_for(plan.credit, Sizes(plan.credit));
  }

  // s_t of lane b; what the cell reads is [x, h_tm1, 1]
  void step(int64_t b, const float* x, const float* s_tm1, float* s_t, bool keeps) const {
    const int I = int(plan.I);
    float* input = u + b * z.M;
    copy(input, x, I);
    copy(input + I, s_tm1, z.N);
    input[I + z.N] = 1;
    float* gates = pre + b * z.Z;
    drive_of(z.Z, z.M, plan.recurrent.parameters[0].value, input, gates);
    activate(plan.cell, z.N, gates, s_tm1, s_t, keeps ? drive + b * z.K * z.Z : nullptr, carry + b * z.K * S);
  }
  const float* forward(int64_t b, const float* x, const float* s_tm1, float* s_t) const override {
    step(b, x, s_tm1, s_t, true);
    return s_t;
  }
  const float* ahead(int64_t b, const float* x, const float* s_tm1, float* s_t) const override {
    step(b, x, s_tm1, s_t, false);
    return s_t;
  }

  void learn(const Tick& tick, const Live&, const uint8_t* ready, const float* const*, const float*,
             const float* q) override {
    o.drive = drive;
    o.carry = carry;
    o.input = u;
    o.q = q;
    o.live = ready;
    o.signs = tick.signs;
    o.pays = tick.pays;
    observe(&o);
    for (int64_t i = 0; tick.pays && i < plan.n_fixed; i++)
      std::memset(o.gradient + plan.fixed[2 * i], 0, sizeof(float) * plan.fixed[2 * i + 1]);
  }
};

struct TickWork {
  float *candidate, *q, *o, *slope, *features, *head_gradient;
  const float** x;
  int64_t* lanes;
  uint8_t *live, *ready, *scored;
  SquaresWork squares;
  Drawn recurrent, readout;
  __attribute__((noinline)) TickWork(Arena& arena, const Plan& plan, int S, int width)
      : squares(arena, plan, width + int(plan.I) + 1), recurrent(arena, plan.recurrent), readout(arena, plan.readout) {
    const size_t B = plan.credit.B, F = width + plan.I + 1;
    candidate = arena.take<float>(B * S);
    q = arena.take<float>(B * (S > width ? S : width));
    o = arena.take<float>(B * plan.P);
    slope = arena.take<float>(B * plan.P);
    features = arena.take<float>(B * F);
    head_gradient = arena.take<float>(plan.P * F);
    x = arena.take<const float*>(B);
    lanes = arena.take<int64_t>(B);
    live = arena.take<uint8_t>(B);
    ready = arena.take<uint8_t>(B);
    scored = arena.take<uint8_t>(B);
  }
};

static void read_out(const Plan& plan, int width, const float* h, const float* x, float* features, float* o) {
  const int I = int(plan.I), F = width + I + 1;
  copy(features, h, width);
  if (plan.blind)
    std::memset(features + width, 0, sizeof(float) * I);
  else
    copy(features + width, x, I);
  features[F - 1] = 1;
  drive_of(int(plan.P), F, plan.readout.parameters[0].value, features, o);
}

// q (N) = slope^T V of a lane.
static void pull(const Plan& plan, int N, const float* slope, float* q) {
  const int P = int(plan.P), F = N + int(plan.I) + 1;
  const float* V = plan.readout.parameters[0].value;
  by_vectors(N, [&](int n, auto at) {
    vf sum = all(slope[0]) * at.get(V + n);
    for (int i = 1; i < P; i++) sum += all(slope[i]) * at.get(V + size_t(i) * F + n);
    at.put(q + n, sum);
  });
}

// The shares of some lanes in the read-out's gradient (P, F), one after another.
template <int COUNT>
static void add_slopes(int P, int F, const int64_t* lanes, const TickWork& w) {
  const float *slope[COUNT], *features[COUNT];
  for (int b = 0; b < COUNT; b++) {
    slope[b] = w.slope + lanes[b] * P;
    features[b] = w.features + lanes[b] * F;
  }
  by_vectors(F, [&](int n, auto at) {
    vf seen[COUNT];
    for (int b = 0; b < COUNT; b++) seen[b] = at.get(features[b] + n);
    for (int i = 0; i < P; i++) {
      float* gradient = w.head_gradient + size_t(i) * F + n;
      vf sum = at.get(gradient);
      for (int b = 0; b < COUNT; b++) sum = fused(all(slope[b][i]), seen[b], sum);
      at.put(gradient, sum);
    }
  });
}

// Calls `each(lane)` for these lanes, which know nothing of one another.
template <class Each>
static void by_lanes(int threads, const Live& lanes, const Each& each) {
  if (threads == 1) {
    for (const int64_t b : lanes) each(b);
    return;
  }
  struct Shared {
    const Live& lanes;
    const Each& each;
  } shared{lanes, each};
  Team::share(threads, lanes.n, [](void* context, int64_t i, int) {
    const Shared& of = *static_cast<const Shared*>(context);
    of.each(of.lanes.lanes[i]);
  }, &shared);
}

// The tick that `tick` says; with T ticks, the rows of the t-th one of x, y, live, scored and weight.
static void run(const Plan& plan, const Tick& tick, Net& net, const TickWork& w) {
  const int64_t B = plan.credit.B;
  const int S = net.S, N = net.width, Nq = net.slopes;
  const int I = int(plan.I), P = int(plan.P), Q = int(plan.Q), F = N + I + 1, k = int(plan.horizon);
  uint8_t *learned = tick.learned + tick.slot * B, *rejected = tick.rejected + tick.slot * B;
  uint8_t *restarted = tick.restarted + tick.slot * B, *updated = tick.updated + tick.slot;
  float *prediction = tick.prediction + tick.slot * B * P, *loss = tick.loss + tick.slot * B;

  // the forward pass: which events are sane, and what comes out
  const Live lanes = live_lanes(tick.live, B, w.lanes);
  for (uint8_t* marks : {w.live, w.ready, w.scored})
    if (lanes.n < B) std::memset(marks, 0, B);
  net.look();
  by_lanes(net.threads, lanes, [&](int64_t b) {
    const float *x = tick.x + b * I, *y = tick.y + b * Q;
    bool scored = tick.scored[b], live = within(x, I, ABSURD) && (!scored || within(y, Q, ABSURD));
    if (scored && tick.weight) {
      live = live && tick.weight[b] >= 0 && tick.weight[b] <= 1;
      scored = tick.weight[b] > 0 || is_likelihood(plan);
    }
    const float* x_learn = x;
    bool ready = live;
    if (k) {
      ready = live && plan.count[b] >= k;
      x_learn = plan.waiting + (b * k + wrapped(plan.count[b], k)) * I;
    }
    scored = scored && ready;
    if (ready) {
      float *s_t = w.candidate + b * S, *out = w.o + b * P;
      const float* h = net.forward(b, x_learn, plan.s + b * S, s_t);
      read_out(plan, N, h, x_learn, w.features + b * F, out);
      if (!within(h, N, DIVERGED) || !within(out, P, DIVERGED)) live = ready = scored = false;
    }
    w.x[b] = x_learn;
    w.live[b] = live;
    w.ready[b] = ready;
    w.scored[b] = scored;
    learned[b] = scored;
    rejected[b] = !live;
  });
  int64_t n_scored = 0;
  for (const int64_t b : lanes) n_scored += w.scored[b];

  // the loss, its slope, and what it asks of the read-out and of the recurrence
  std::memset(w.head_gradient, 0, sizeof(float) * P * F);
  int64_t together[TOGETHER];
  int waiting = 0;
  for (const int64_t b : lanes) {
    float *slope = w.slope + b * P, *q = w.q + b * Nq;
    std::memset(q, 0, sizeof(float) * Nq);
    if (!w.scored[b]) continue;
    const float *o = w.o + b * P, *y = tick.y + b * Q;
    loss[b] = tick.weight ? evaluate_weighted(plan, o, y, tick.weight[b], slope) : evaluate(plan, o, y, slope);
    for (int i = 0; i < P; i++) slope[i] /= float(n_scored);
    if (!tick.frozen) pull(plan, N, slope, q);  // else there is nothing that credit could be unsound for
    together[waiting] = b;
    if (++waiting < TOGETHER) continue;
    waiting = 0;
    add_slopes<TOGETHER>(P, F, together, w);
  }
  for (int i = 0; i < waiting; i++) add_slopes<1>(P, F, together + i, w);

  // credit; new states are committed
  net.learn(tick, lanes, w.ready, w.x, w.candidate, w.q);
  for (const int64_t b : lanes)
    if (w.ready[b]) copy(plan.s + b * S, w.candidate + b * S, S);

  // updates: a zero gradient is not a no-op, an update needs a lane that is owed one and sound
  for (const int64_t b : lanes) {
    restarted[b] = w.ready[b] && !plan.credit.healthy[b];
    if (!tick.frozen) plan.owed[b] |= w.scored[b];
  }
  uint8_t is_owed = 0;
  for (int64_t b = 0; b < B; b++) is_owed |= plan.owed[b] & plan.credit.healthy[b];
  if (!tick.frozen) {
    const float* of_head[3] = {w.head_gradient, nullptr, nullptr};
    const Parameter* moved = plan.recurrent.parameters;
    const float* of_net[3] = {moved[0].gradient, moved[1].gradient, moved[2].gradient};
    if (!plan.squares.C) update(plan.readout, w.readout, of_head, n_scored > 0);
    if (tick.pays) *updated = update(plan.recurrent, w.recurrent, of_net, is_owed);
    for (const int64_t b : lanes)
      if (plan.squares.C && w.scored[b]) refit(plan, w.squares, F, w.features + b * F, tick.y + b * Q);
  }
  if (tick.pays) std::memset(plan.owed, 0, B);

  // what is published: of the event itself, or of the second state, k events ahead
  if (k) net.look();
  by_lanes(k ? net.threads : 1, lanes, [&](int64_t b) {
    if (!w.live[b]) return;
    float* out = prediction + b * P;
    if (k) {
      const float* x = tick.x + b * I;
      float *ahead = plan.ahead + b * S, *next = w.candidate + b * S;
      std::memcpy(plan.waiting + (b * k + wrapped(plan.count[b], k)) * I, x, sizeof(float) * I);
      plan.count[b]++;
      const float* h = net.ahead(b, x, ahead, next);
      read_out(plan, N, h, x, w.features + b * F, out);
      std::memcpy(ahead, next, sizeof(float) * S);
    } else {
      std::memcpy(out, w.o + b * P, sizeof(float) * P);
    }
    publish(plan, out);
  });
}

// What would be predicted from the tick's inputs; no state and no parameter moves.
static void peek(const Plan& plan, const Tick& tick, Net& net, const TickWork& w) {
  const int64_t B = plan.credit.B;
  const int S = net.S, N = net.width, I = int(plan.I), P = int(plan.P);
  const float* state = plan.horizon ? plan.ahead : plan.s;
  net.look();
  for (const int64_t b : live_lanes(tick.live, B, w.lanes)) {
    const float* x = tick.x + b * I;
    float* out = tick.prediction + (tick.slot * B + b) * P;
    bool sound = within(x, I, ABSURD);
    if (sound) {
      const float* h = net.ahead(b, x, state + b * S, w.candidate + b * S);
      read_out(plan, N, h, x, w.features + b * (N + I + 1), out);
      sound = within(h, N, DIVERGED) && within(out, P, DIVERGED);
    }
    if (sound)
      publish(plan, out);
    else
      std::memset(out, 0, sizeof(float) * P);
    tick.rejected[tick.slot * B + b] = !sound;
  }
}

// Ticks one after another, `at` the first of them; ends after one that the loop must hear of at
// once: credit that restarted, or an update that was refused. Returns how many there were. Not cloned:
// else the compiler makes a tick for each kind of net again.
__attribute__((noinline, noclone)) static int64_t run_all(const Plan& plan, Tick at, int64_t ticks, Net& net,
                                                          const TickWork& w) {
  if (at.peeks) return peek(plan, at, net, w), 1;
  const int64_t B = plan.credit.B, n_signs = at.n_signs;
  for (int64_t t = 0; t < ticks; t++) {
    run(plan, at, net, w);
    uint8_t restarted = 0, scored = 0;
    for (int64_t b = 0; b < B; b++) {
      restarted |= at.restarted[at.slot * B + b];
      scored |= at.learned[at.slot * B + b];
    }
    if (restarted || (scored && at.pays && !at.frozen && !at.updated[at.slot])) return t + 1;
    at.x += B * plan.I;
    at.y += B * plan.Q;
    at.live += B;
    at.scored += B;
    if (at.weight) at.weight += B;
    at.signs += n_signs;
    at.slot++;
  }
  return ticks;
}

template <class Kind>
static int64_t run_all_of(const Plan& plan, const Tick& at, int64_t ticks) {
  Arena arena(plan.work);
  const TickWork w(arena, plan, Kind::state_size(plan), Kind::width_of(plan));
  Kind net(arena, plan);
  return run_all(plan, at, ticks, net, w);
}

}  // namespace KERNELS
