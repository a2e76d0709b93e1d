// One tick of exact RTRL (stream_rnn/credit/rtrl.py), lane by lane.
//
// The influence (S, Z*M) is pushed panel by panel and in place: what comes out unsound is zeroed.
#pragma once
#include "influence.hpp"

namespace KERNELS {

struct ExactWork {  // of one lane
  float *J, *packed, *pushed, *pulled;
  ExactWork(Arena& arena, const Sizes& z) {
    J = arena.take<float>(size_t(z.S) * z.N);
    packed = arena.take<float>(size_t(z.S) * PANEL);
    pushed = arena.take<float>(size_t(z.S) * PANEL);
    pulled = arena.take<float>(size_t(z.Z) * z.M);
  }
};

// D (x) u on columns `first`.. of a panel: the columns of a row of W belong to one unit alone.
static void add_immediate(const Sizes& z, const Lane& lane, int first, int width, float* panel) {
  for (int c = 0; c < width;) {
    const int row = (first + c) / z.M, m = (first + c) % z.M, count = std::min(width - c, z.M - m);
    for (int k = 0; k < z.K; k++) {
      const float d = lane.drive[k * z.Z + row];
      float* to = panel + (size_t(k) * z.N + row % z.N) * PANEL + c;
      for (int i = 0; i < count; i++) to[i] += d * lane.input[m + i];
    }
    c += count;
  }
}

static void rtrl_lane(const Observation& o, const Sizes& z, const ExactWork& w, int64_t b) {
  const Lane lane(o, z, b);
  const int S = z.S, columns = z.Z * z.M;
  float* G = o.A + b * size_t(S) * columns;
  form_J_h(o, z, lane, w.J);
  double squares = 0;
  for (int first = 0; first < columns; first += PANEL) {
    const int width = std::min(PANEL, columns - first);
    float column[PANEL];
    pack(G + first, columns, S, width, w.packed);
    multiply(S, z.N, w.J, z.N, w.packed, w.pushed);
    add_immediate(z, lane, first, width, w.pushed);
    squares += finish_panel(z, lane, w.packed, w.pushed, column);
    copy_row(column, w.pulled + first, width);
    for (int s = 0; s < S; s++) copy_row(w.pushed + size_t(s) * PANEL, G + size_t(s) * columns + first, width);
  }
  o.norm[b] = float(std::sqrt(squares));
  o.healthy[b] = o.norm[b] <= EXPLODED;
  if (!o.healthy[b]) {
    std::memset(G, 0, sizeof(float) * S * columns);
    return;
  }
  for (int i = 0; i < columns; i++) o.gradient[i] += w.pulled[i];
}

}  // namespace KERNELS
