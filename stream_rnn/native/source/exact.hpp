// One tick of exact RTRL (stream_rnn/credit/rtrl.py), lane by lane.
//
// The influence (S, Z*M) is pushed panel by panel and in place: what comes out unsound is zeroed.
#pragma once
#include "influence.hpp"

namespace KERNELS {

constexpr int MOST_BLOCKS = 2;  // K of the shipped cells

struct ExactShare {  // what a lane adds to the gradient
  float* pulled;     // (Z, M)
  bool* counts;
  ExactShare(Arena& arena, const Sizes& z) {
    pulled = arena.take<float>(size_t(z.Z) * z.M);
    counts = arena.take<bool>(1);
  }
  void add(const Sizes& z, int from, int end, float* gradient) const {
    if (!*counts) return;
    float* to = gradient + size_t(from) * z.M;
    const float* some = pulled + size_t(from) * z.M;
    by_vectors((end - from) * z.M, [&](int i, auto at) { at.put(to + i, at.get(to + i) + at.get(some + i)); });
  }
};

struct ExactWork {  // of one lane
  float *J, *packed, *pushed;
  ExactWork(Arena& arena, const Sizes& z) {
    J = arena.take<float>(size_t(z.S) * z.N);
    packed = arena.take<float>(size_t(z.N) * PANEL);
    pushed = arena.take<float>(size_t(z.S) * PANEL);
  }
};

// D (x) u on columns `first`.. of a panel: the columns of a row of W belong to one unit alone.
static void add_immediate(const Sizes& z, const Lane& lane, int first, int width, float* panel) {
  for (int c = 0; c < width;) {
    const int row = (first + c) / z.M, m = (first + c) % z.M, count = std::min(width - c, z.M - m);
    for (int k = 0; k < z.K; k++) {
      float* to = panel + (size_t(k) * z.N + row % z.N) * PANEL + c;
      add_times(lane.drive[k * z.Z + row], lane.input + m, to, count);
    }
    c += count;
  }
}

// Adds the carries, from the columns of G as they are, and takes the place of these. Also q^T of
// what comes out, one number a column, into `pulled`; and the sum of all squares.
template <bool WHOLE>
static float replace_panel(const Sizes& z, const Lane& lane, const float* pushed, float* G, int columns,
                           int width, float* pulled) {
  const int N = z.N, K = z.K;
  vf p[VECTORS] = {}, squares = {};
  for (int n = 0; n < N; n++)
    for (int v = 0; v < VECTORS; v++) {
      const int left = std::min(VL, width - VL * v);
      if (!WHOLE && left <= 0) break;
      float* at = G + size_t(n) * columns + VL * v;
      vf x[MOST_BLOCKS];
      for (int k = 0; k < K; k++) x[k] = load(pushed + PANEL * (size_t(k) * N + n) + VL * v);
      for (int l = 1; l < K; l++) {
        const float* other = at + size_t(l) * N * columns;
        const vf old = WHOLE ? load(other) : load_some(other, left);
        for (int k = 0; k < K; k++) x[k] += lane.carry[(size_t(k) * K + l) * N + n] * old;
      }
      for (int k = 0; k < K; k++) {
        float* to = at + size_t(k) * N * columns;
        WHOLE ? store(to, x[k]) : store_some(to, x[k], left);
        p[v] += lane.q[k * N + n] * x[k];
        squares += x[k] * x[k];
      }
    }
  for (int v = 0; v < VECTORS; v++)
    if (WHOLE || width > VL * v) store_some(pulled + VL * v, p[v], WHOLE ? VL : std::min(VL, width - VL * v));
  return sum(squares);
}

static void rtrl_lane(const Observation& o, const Sizes& z, const ExactWork& w, const ExactShare& share,
                      int64_t b) {
  const Lane lane(o, z, b);
  const int S = z.S, N = z.N, columns = z.Z * z.M;
  float* G = o.A + b * size_t(S) * columns;
  form_J_h(o, z, lane, w.J);
  double squares = 0;
  for (int first = 0; first < columns; first += PANEL) {
    const int width = std::min(PANEL, columns - first);
    pack(G + first, columns, N, width, w.packed);
    multiply(S, N, w.J, N, w.packed, w.pushed);
    add_immediate(z, lane, first, width, w.pushed);
    squares += width == PANEL ? replace_panel<true>(z, lane, w.pushed, G + first, columns, width, share.pulled + first)
                              : replace_panel<false>(z, lane, w.pushed, G + first, columns, width, share.pulled + first);
  }
  o.norm[b] = float(std::sqrt(squares));
  o.healthy[b] = o.norm[b] <= EXPLODED;
  if (!o.healthy[b]) {
    std::memset(G, 0, sizeof(float) * S * columns);
    return;
  }
  *share.counts = true;
}

}  // namespace KERNELS
