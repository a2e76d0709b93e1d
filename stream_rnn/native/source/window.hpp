// One tick of TBPTT (stream_rnn/credit/tbptt.py), lane by lane.
#pragma once
#include "influence.hpp"

namespace KERNELS {

// A place in a ring, whatever number was resumed.
inline int64_t wrapped(int64_t i, int64_t n) { return (i % n + n) % n; }

// Writes the step into the newest slot of a live lane.
static void keep_step(const Observation& o, const Sizes& z, int64_t b) {
  const Lane lane(o, z, b);
  o.newest[b] = wrapped(o.newest[b] + 1, o.window);
  const size_t slot = size_t(b) * o.window + o.newest[b];
  form_J_h(o, z, lane, o.J_h + slot * z.S * z.N);
  std::memcpy(o.carries + slot * z.K * z.S, lane.carry, sizeof(float) * z.K * z.S);
  std::memcpy(o.drives + slot * z.K * z.Z, lane.drive, sizeof(float) * z.K * z.Z);
  std::memcpy(o.u + slot * z.M, lane.input, sizeof(float) * z.M);
  std::memcpy(o.owed + slot * z.S, lane.q, sizeof(float) * z.S);
  if (!o.begins || !o.begins[b]) return;
  o.begins[b] = 0;
  std::memset(o.J_h + slot * z.S * z.N, 0, sizeof(float) * z.S * z.N);
  std::memset(o.carries + slot * z.K * z.S, 0, sizeof(float) * z.K * z.S);
}

// A lane without an event that owes nothing: it is left as it is.
static bool is_square(const Observation& o, const Sizes& z, int64_t b) {
  if (o.live[b]) return false;
  if (o.every == 1) return true;
  bool owes = false;
  const size_t size = size_t(o.window) * z.S;
  const float* owed = o.owed + b * size;
  for (size_t i = 0; i < size; i++) owes |= owed[i] != 0;
  return !owes;
}

struct WindowWork {
  float *q, *p, *V;
  WindowWork(Arena& arena, const Observation& o, const Sizes& z) {
    q = arena.take<float>(2 * size_t(z.S));
    p = arena.take<float>(size_t(o.window) * z.Z);
    V = arena.take<float>(size_t(o.window) * z.padded);
  }
};

// to (N) += q^T J, for J (S, N): some columns in registers over all rows
static void pull_rows(int S, int N, const float* q, const float* J, float* to) {
  constexpr int SOME = 4;
  int m = 0;
  for (; m + SOME * VL <= N; m += SOME * VL) {
    vf sums[SOME];
    for (int v = 0; v < SOME; v++) sums[v] = load(to + m + v * VL);
    for (int s = 0; s < S; s++)
      for (int v = 0; v < SOME; v++) sums[v] += q[s] * load(J + size_t(s) * N + m + v * VL);
    for (int v = 0; v < SOME; v++) store(to + m + v * VL, sums[v]);
  }
  by_vectors(N - m, [&](int i, auto at) {
    vf sums = at.get(to + m + i);
    for (int s = 0; s < S; s++) sums += q[s] * at.get(J + size_t(s) * N + m + i);
    at.put(to + m + i, sums);
  });
}

// Carries what a lane owes back through its window, live or not.
static void pay(const Observation& o, const Sizes& z, const WindowWork& w, int64_t b) {
  const int S = z.S, N = z.N, K = z.K, T = int(o.window);
  float *q = w.q, *q_tm1 = w.q + S;
  double p_squares = 0, q_squares = 0, u_squares = 0;
  for (int lag = 0; lag < T; lag++) {
    const size_t slot = size_t(b) * T + wrapped(o.newest[b] - lag, T);
    const float* owed = o.owed + slot * S;
    if (lag == 0) std::memcpy(q, owed, sizeof(float) * S);
    Lane at(o, z, b);
    at.drive = o.drives + slot * K * z.Z;
    at.q = q;
    float* p = w.p + size_t(lag) * z.Z;
    pull_drive(z, at, p);
    const float* u = o.u + slot * z.M;
    std::memcpy(w.V + size_t(lag) * z.padded, u, sizeof(float) * z.M);
    p_squares += dot(p, p, z.Z);
    q_squares += dot(q, q, S);
    u_squares += dot(u, u, z.M);
    if (lag + 1 == T) break;
    const float *J_h = o.J_h + slot * S * N, *carry = o.carries + slot * K * S;
    const size_t before = size_t(b) * T + wrapped(o.newest[b] - lag - 1, T);
    std::memcpy(q_tm1, o.owed + before * S, sizeof(float) * S);
    pull_rows(S, N, q, J_h, q_tm1);
    for (int l = 1; l < K; l++)
      for (int k = 0; k < K; k++) {
        const float *by = carry + (k * K + l) * N, *from = q + k * N;
        float* to = q_tm1 + l * N;
        by_vectors(N, [&](int n, auto at) { at.put(to + n, at.get(by + n) * at.get(from + n) + at.get(to + n)); });
      }
    std::swap(q, q_tm1);
  }
  const double size = std::sqrt(p_squares) + std::sqrt(u_squares) + std::sqrt(q_squares);
  o.healthy[b] = size <= EXPLODED;
  std::memset(o.owed + size_t(b) * T * S, 0, sizeof(float) * T * S);
  if (o.healthy[b]) {
    for (int from = 0; from < T; from += MOST)
      add_outer(z.Z, std::min(MOST, T - from), w.p + size_t(from) * z.Z, z.Z,
                w.V + size_t(from) * z.padded, z.padded, z.M, o.gradient);
    return;
  }
  // an unsound lane starts a new window
  std::memset(o.J_h + size_t(b) * T * S * N, 0, sizeof(float) * T * S * N);
  std::memset(o.carries + size_t(b) * T * K * S, 0, sizeof(float) * T * K * S);
  std::memset(o.drives + size_t(b) * T * K * z.Z, 0, sizeof(float) * T * K * z.Z);
  std::memset(o.u + size_t(b) * T * z.M, 0, sizeof(float) * T * z.M);
  o.newest[b] = 0;
  if (o.begins) o.begins[b] = 0;
}

}  // namespace KERNELS
