// One tick of KF and of OK (stream_rnn/credit/kf.py, ok.py), lane by lane.
#pragma once
#include "push.hpp"
#include "small_matrices.hpp"
#include "summands.hpp"

namespace KERNELS {

constexpr double EXPLODED = 1e8;  // stream_rnn/credit/base.py

// (ds/dz)^T q, (Z)
static void pull_drive(const Sizes& z, const Lane& lane, float* p) {
  for (int g = 0; g < z.G; g++)
    by_vectors(z.N, [&](int n, auto at) {
      vf sum = {};
      for (int k = 0; k < z.K; k++) sum += at.get(lane.drive + k * z.Z + g * z.N + n) * at.get(lane.q + k * z.N + n);
      at.put(p + g * z.N + n, sum);
    });
}

// A lane whose credit is bad restarts from nothing.
static void restart(float* u, size_t n_u, float* A, size_t n_A) {
  std::memset(u, 0, n_u * sizeof(float));
  std::memset(A, 0, n_A * sizeof(float));
}

// What a lane adds to the gradient: `terms` outer products for each chunk of its rows, or nothing.
struct Share {
  float *pulled, *V;  // (terms, Z); (C, terms, padded)
  bool* counts;
  Share(Arena& arena, const Sizes& z) {
    pulled = arena.take<float>((z.n + 1) * z.Z + PANEL);
    V = arena.take<float>(size_t(z.chunks) * z.n * z.padded);
    counts = arena.take<bool>(1);
  }
  // Rows `from`.. up to `end` of the gradient.
  void add(const Sizes& z, int from, int end, float* gradient) const {
    const int L = z.Z / z.chunks;
    for (int row = from; *counts && row < end;) {
      const int chunk = row / L, until = std::min(end, (chunk + 1) * L);
      add_outer(until - row, z.n, pulled + row, z.Z, V + size_t(chunk) * z.n * z.padded, z.padded, z.M,
                gradient + size_t(row) * z.M);
      row = until;
    }
  }
};

struct Work {  // of one lane
  float *J, *packed, *pushed, *mix_V, *mix_A, *blocks, *mixed;
  double *wide_V, *gram_V, *gram_A, *phases;
  Turns turns;
  __attribute__((noinline)) Work(Arena& arena, const Sizes& z) : turns(z.rank) {
    const size_t C = z.chunks, n = z.n, r = z.rank;
    J = arena.take<float>(size_t(z.S) * z.N);
    packed = arena.take<float>(size_t(z.S) * PANEL);
    // what follows the last panel is read (never used) by the Gram sums and the mixing
    pushed = arena.take<float>((size_t(z.groups) * z.panels * z.S + 8) * PANEL);
    mix_V = arena.take<float>((C + AT_ONCE) * n * r);
    mix_A = arena.take<float>((C + AT_ONCE) * n * r);
    blocks = arena.take<float>(PANEL * PANEL);
    mixed = arena.take<float>(r * z.padded);
    wide_V = arena.take<double>(n * z.padded);
    gram_V = arena.take<double>(C * n * n);
    gram_A = arena.take<double>(C * n * n);
    phases = arena.take<double>(PANEL * MOST);
  }
};

// The mixing matrices of all chunks of a lane, from their Gram matrices.
static void reduce_chunks(const Observation& o, const Sizes& z, const Work& w, int64_t b) {
  const int n = z.n, C = z.chunks;
  for (int c = 0; c < C; c += AT_ONCE)
    reduce(n, std::min(AT_ONCE, C - c), w.gram_V + size_t(c) * n * n, w.gram_A + size_t(c) * n * n,
           o.signs + (b * C + c) * n, w.mix_V + size_t(c) * n * z.rank, w.mix_A + size_t(c) * n * z.rank,
           o.variance + b * C + c);
}

// Whether OK's credit of a lane, with this sum of squares, may go on; it restarts otherwise.
static bool ok_is_sound(const Observation& o, const Sizes& z, int64_t b, double squares, float* U, float* A) {
  o.norm[b] = std::sqrt(squares < 0 ? 0 : squares);  // sums that cancel may be rounded below 0
  o.healthy[b] = o.norm[b] <= EXPLODED;
  if (o.healthy[b]) return true;
  std::memset(o.variance + b * z.chunks, 0, sizeof(double) * z.chunks);
  restart(U, size_t(z.chunks) * z.M * z.rank, A, size_t(z.S) * z.Z * z.rank);
  return false;
}

// What is done with one summand, by KF and by OK of rank 1: each group of columns of A is pushed in place.

// A of a group (S, columns) becomes J A, and `pulled` q^T (J A); returns the sum of its squares.
static double push_one(const Sizes& z, const Lane& lane, const Work& w, float* A, float* pulled) {
  double squares = 0;
  for (int first = 0; first < z.columns; first += PANEL) {
    const int width = std::min(PANEL, z.columns - first);
    float column[PANEL];
    const Rows out = width == PANEL ? Rows{A + first, size_t(z.columns)} : Rows{w.pushed, PANEL};
    squares += push_panel<true>(z, lane, w.J, A + first, z.columns, width, w.packed, out, column);
    for (int s = 0; s < z.S && width < PANEL; s++)
      copy_row(w.pushed + size_t(s) * PANEL, A + size_t(s) * z.columns + first, width);
    copy_row(column, pulled + first, width);
  }
  return squares;
}

// D of a group has diagonals only, one for each state and gate: calls `each(N numbers of the drive, those of A
// in the same places)`, the latter `columns + 1` apart.
template <class Each>
inline void by_diagonals(const Sizes& z, const Lane& lane, int group, float* A, const Each& each) {
  for (int k = 0; k < z.K; k++)
    for (int first = 0; first < z.columns; first += z.N)
      each(lane.drive + k * z.Z + group * z.columns + first, A + size_t(k) * z.N * z.columns + first);
}

// Gram matrix (2, 2) of [J A, D], in double.
static void gram_one(const Sizes& z, const Lane& lane, int group, float* A, double squares, double* gram) {
  const size_t apart = size_t(z.columns) + 1;
  double across[4] = {}, of_drive = 0;
  by_diagonals(z, lane, group, A, [&](const float* drive, const float* pushed) {
    int n = 0;
    for (; n + 4 <= z.N; n += 4)
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) across[i] += double(drive[n + i]) * pushed[(n + i) * apart];
    for (; n < z.N; n++) across[0] += double(drive[n]) * pushed[n * apart];
    of_drive += wide_dot(drive, drive, z.N);
  });
  gram[0] = squares;
  gram[1] = gram[2] = (across[0] + across[1]) + (across[2] + across[3]);
  gram[3] = of_drive;
}

// A' = old (J A) + fresh D
static void mix_one(const Sizes& z, const Lane& lane, int group, float* A, float old, float fresh) {
  by_vectors(z.S * z.columns, [&](int i, auto at) { at.put(A + i, old * at.get(A + i)); });
  by_diagonals(z, lane, group, A, [&](const float* drive, float* to) {
    for (int n = 0; n < z.N; n++, to += z.columns + 1) *to += fresh * drive[n];
  });
}

// u' = old u + fresh a
static void mix_input(const Sizes& z, const Lane& lane, float* u, float old, float fresh) {
  by_vectors(z.M, [&](int m, auto at) { at.put(u + m, old * at.get(u + m) + fresh * at.get(lane.input + m)); });
}

// What the lane adds to the gradient: of each group, (u, J A) and (a, D).
static void share_one(const Sizes& z, const Lane& lane, const Share& share, const float* u) {
  pull_drive(z, lane, share.pulled + z.Z);
  for (int c = 0; c < z.chunks; c++) {
    float* V = share.V + size_t(c) * 2 * z.padded;
    copy(V, u + size_t(c) * z.M, z.M);
    copy(V + z.padded, lane.input, z.M);
  }
  *share.counts = true;
}

static void kf_lane(const Observation& o, const Sizes& z, const Work& w, const Share& share, int64_t b) {
  const Lane lane(o, z, b);
  const int M = z.M;
  const size_t n_A = size_t(z.S) * z.Z;
  float *u = o.u + b * M, *A = o.A + b * n_A;
  form_J_h(o, z, lane, w.J);
  const float norm_JA = float(std::sqrt(push_one(z, lane, w, A, share.pulled)));
  const float norm_D = std::sqrt(dot(lane.drive, lane.drive, z.K * z.Z));
  const float norm_u = std::sqrt(dot(u, u, M)), norm_a = std::sqrt(dot(lane.input, lane.input, M));
  const float old_size = norm_u * norm_JA, new_size = norm_a * norm_D;
  o.norm[b] = old_size + new_size;
  o.healthy[b] = o.norm[b] <= EXPLODED;
  if (!o.healthy[b]) return restart(u, M, A, n_A);

  share_one(z, lane, share, u);
  const float p1 = old_size > 0 ? std::sqrt(norm_JA / norm_u) : 1.0f;
  const float p2 = new_size > 0 ? std::sqrt(norm_D / norm_a) : 1.0f;
  const float c1 = old_size > 0 ? o.signs[2 * b] : 0.0f;
  const float c2 = new_size > 0 ? o.signs[2 * b + 1] : 0.0f;
  mix_input(z, lane, u, c1 * p1, c2 * p2);
  mix_one(z, lane, 0, A, c1 / p1, c2 / p2);
}

// OK of rank 1, unless each row of W has a sum of its own: no sums over summands, and no second A.
static void ok_one_lane(const Observation& o, const Sizes& z, const Work& w, const Share& share, int64_t b) {
  const Lane lane(o, z, b);
  const int M = z.M, C = z.chunks;
  const size_t n_U = size_t(C) * M, n_A = size_t(z.S) * z.Z, of_group = size_t(z.S) * z.columns;
  float *U = o.u + b * n_U, *A = o.A + b * n_A;
  form_J_h(o, z, lane, w.J);
  double squares = 0;
  for (int c = 0; c < C; c++) {
    double *of_A = w.gram_A + 4 * c, *of_V = w.gram_V + 4 * c;
    const float* u = U + size_t(c) * M;
    gram_one(z, lane, c, A + c * of_group, push_one(z, lane, w, A + c * of_group, share.pulled + c * z.columns), of_A);
    of_V[0] = wide_dot(u, u, M);
    of_V[1] = of_V[2] = wide_dot(u, lane.input, M);
    of_V[3] = c ? w.gram_V[3] : wide_dot(lane.input, lane.input, M);
    for (int i = 0; i < 4; i++) squares += of_A[i] * of_V[i];
  }
  if (!ok_is_sound(o, z, b, squares, U, A)) return;
  share_one(z, lane, share, U);
  reduce_chunks(o, z, w, b);
  for (int c = 0; c < C; c++) {
    mix_input(z, lane, U + size_t(c) * M, w.mix_V[2 * c], w.mix_V[2 * c + 1]);
    mix_one(z, lane, c, A + c * of_group, w.mix_A[2 * c], w.mix_A[2 * c + 1]);
  }
}

// [JA | D] of one lane: pushes every panel, reads A^T q, and sums up the Gram matrices of A.
static void ok_push(const Observation& o, const Sizes& z, const Lane& lane, const Work& w, float* at_pulled,
                    const float* A) {
  const int R = z.rank, n = z.n, S = z.S, L = z.Z / z.groups, entries = z.width / R;
  const bool by_row = o.chunks == ROW;
  std::memset(w.gram_A, 0, sizeof(double) * z.chunks * n * n);
  for (int group = 0; group < z.groups; group++) {
    std::memset(w.phases, 0, sizeof(double) * PANEL * R);
    for (int p = 0; p < z.panels; p++) {
      const int first = p * z.width, width = std::min(z.width, z.columns - first);
      float* out = w.pushed + (size_t(group) * z.panels + p) * S * PANEL;
      float column[PANEL];
      push_panel<false>(z, lane, w.J, A + size_t(group) * S * z.columns + first, z.columns, width, w.packed,
                        {out, PANEL}, column);
      float* pulled = at_pulled + group * L + p * entries;
      for (int e = 0; e * R < width; e++)  // A^T q, summand by summand
        for (int i = 0; i < R; i++) pulled[size_t(i) * z.Z + e] = column[e * R + i];
      std::memset(out + size_t(S) * PANEL, 0, PANEL * sizeof(float));  // shifted loads end here
      if (by_row) std::memset(w.phases, 0, sizeof(double) * PANEL * R);
      add_gram(S, R, out, w.turns, w.phases);
      for (int e = 0; by_row && e * R < width; e++)
        spread_gram(R, w.phases, e, e + 1, w.gram_A + size_t(first / R + e) * n * n);
    }
    if (!by_row) spread_gram(R, w.phases, 0, z.width / R, w.gram_A + size_t(group) * n * n);
  }
  for (int k = 0; k < z.K; k++)  // the products with D touch diagonals only
    for (int group = 0; group < z.groups; group++) {
      dv sums[16 / DL] = {};
      double squares = 0;
      for (int l = 0, unit = 0, p = 0, e = 0; l < L; l++) {
        const double d = lane.drive[k * z.Z + group * L + l];
        const float* x = w.pushed + (size_t(group) * z.panels + p) * S * PANEL +
                         (size_t(k) * z.N + unit) * PANEL + e * R;
        for (int j = 0; j < 16 / DL; j++) sums[j] += d * as_doubles(x + j * DL);
        squares += d * d;
        if (by_row || l + 1 == L) {
          double *gram = w.gram_A + size_t(by_row ? l : group) * n * n, row[16];
          for (int j = 0; j < 16 / DL; j++) store(row + j * DL, sums[j]), sums[j] = dv{};
          for (int i = 0; i < R; i++) gram[i * n + R] += row[i];
          gram[R * n + R] += squares;
          squares = 0;
        }
        if (++unit == z.N) unit = 0;
        if (++e == entries) e = 0, p++;
      }
    }
  pull_drive(z, lane, at_pulled + size_t(R) * z.Z);
}

// V = [U, a], summand by summand, and its Gram matrices.
static void ok_inputs(const Sizes& z, const Lane& lane, const Work& w, float* at_V, const float* U) {
  const int R = z.rank, n = z.n, M = z.M;
  for (int c = 0; c < z.chunks; c++) {
    float* V = at_V + size_t(c) * n * z.padded;
    for (int i = 0; i < n; i++)
      for (int m = M; m < z.padded; m++) V[size_t(i) * z.padded + m] = 0;
    transpose(U + size_t(c) * M * R, R, M, R, V, z.padded);
    std::memcpy(V + size_t(R) * z.padded, lane.input, M * sizeof(float));
    for (int i = 0; i < n * z.padded; i += DL) store(w.wide_V + i, as_doubles(V + i));
    double* gram = w.gram_V + size_t(c) * n * n;
    for (int i = 0; i < n; i++)
      for (int j = i; j < n; j++) {
        const double *x = w.wide_V + size_t(i) * z.padded, *y = w.wide_V + size_t(j) * z.padded;
        dv products[2] = {};
        for (int m = 0; m < z.padded; m += VL) {
          products[0] += load(x + m) * load(y + m);
          products[1] += load(x + m + DL) * load(y + m + DL);
        }
        gram[i * n + j] = gram[j * n + i] = sum(products[0] + products[1]);
      }
  }
}

// A' = [JA | D] mix_A: the pushed summands panel by panel, D where it is.
static void ok_mix(const Observation& o, const Sizes& z, const Lane& lane, const Work& w, float* A) {
  const int R = z.rank, n = z.n, S = z.S, L = z.Z / z.groups, entries = z.width / R;
  const bool by_row = o.chunks == ROW;
  for (int group = 0; group < z.groups; group++)
    for (int p = 0; p < z.panels; p++) {
      const int first = p * z.width, width = std::min(z.width, z.columns - first);
      const float* from = w.pushed + (size_t(group) * z.panels + p) * S * PANEL;
      float* to = A + size_t(group) * S * z.columns + first;
      if (mixes_entries(R)) {
        const int at_once = by_row ? 1 : width / R;
        for (int e = 0; e * R < width; e += at_once)
          mix_entries(S, R, at_once, from + e * R, w.mix_A + size_t(by_row ? first / R + e : group) * n * R,
                      to + e * R, z.columns);
        continue;
      }
      if (by_row || p == 0) {
        std::memset(w.blocks, 0, sizeof(float) * PANEL * PANEL);
        for (int e = 0; e < entries && first + e * R < z.columns; e++)
          set_block(R, e, w.mix_A + size_t(by_row ? first / R + e : group) * n * R, w.blocks);
      }
      mix_panel(S, R, from, w.turns, w.blocks, to, z.columns, width);
    }
  for (int k = 0; k < z.K; k++)
    for (int group = 0; group < z.groups; group++)
      for (int l = 0, unit = 0; l < L; l++) {
        const float d = lane.drive[k * z.Z + group * L + l];
        const float* mix = w.mix_A + size_t(by_row ? l : group) * n * R + R * R;
        float* to = A + (size_t(group) * S + k * z.N + unit) * z.columns + size_t(l) * R;
        if (R == 8)
          *reinterpret_cast<eight*>(to) += d * *reinterpret_cast<const eight*>(mix);
        else
          for (int i = 0; i < R; i++) to[i] += d * mix[i];
        if (++unit == z.N) unit = 0;
      }
}

static void ok_lane(const Observation& o, const Sizes& z, const Work& w, const Share& share, int64_t b) {
  const Lane lane(o, z, b);
  const int R = z.rank, n = z.n, M = z.M, C = z.chunks;
  const size_t n_U = size_t(C) * M * R, n_A = size_t(z.S) * z.Z * R;
  float *U = o.u + b * n_U, *A = o.A + b * n_A;
  form_J_h(o, z, lane, w.J);
  ok_push(o, z, lane, w, share.pulled, A);
  ok_inputs(z, lane, w, share.V, U);
  double squares = 0;
  for (int c = 0; c < C; c++) {
    double* gram = w.gram_A + size_t(c) * n * n;
    for (int i = 0; i < n; i++)
      for (int j = 0; j < i; j++) gram[i * n + j] = gram[j * n + i];
    for (int i = 0; i < n * n; i++) squares += w.gram_V[size_t(c) * n * n + i] * gram[i];
  }
  if (!ok_is_sound(o, z, b, squares, U, A)) return;
  *share.counts = true;
  reduce_chunks(o, z, w, b);
  for (int c = 0; c < C; c++) {
    const float *V = share.V + size_t(c) * n * z.padded, *mix = w.mix_V + size_t(c) * n * R;
    for (int k = 0; k < R; k++)
      for (int m = 0; m < M; m += VL) {
        vf s = {};
        for (int i = 0; i < n; i++) s += mix[i * R + k] * load(V + size_t(i) * z.padded + m);
        store(w.mixed + size_t(k) * z.padded + m, s);
      }
    transpose(w.mixed, z.padded, R, M, U + size_t(c) * M * R, R);
  }
  ok_mix(o, z, lane, w, A);
}

}  // namespace KERNELS
