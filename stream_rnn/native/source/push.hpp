// J A for one lane: J_h is formed once, then multiplied with A in panels of 32 columns.
#pragma once
#include <algorithm>

#include "abi.hpp"
#include "simd.hpp"

namespace KERNELS {

// The sizes of an observation, and where the rows of one lane start.
struct Sizes {
  int K, G, N, S, Z, M;
  int rank, n, chunks, groups, columns;  // OK: n = rank + 1; columns of a group of A: L * R
  int padded;                            // M rounded up to whole vectors
  int width, panels;                     // whole entries of A in a panel; panels of a group

  explicit Sizes(const Observation& o)
      : K(int(o.K)), G(int(o.G)), N(int(o.N)), S(K * N), Z(G * N), M(int(o.M)) {
    const bool is_ok = o.rule == OK;
    rank = is_ok ? int(o.rank) : 1;
    n = rank + 1;
    chunks = !is_ok || o.chunks == JOINT ? 1 : o.chunks == GATE ? G : Z;
    groups = is_ok && o.chunks == GATE ? G : 1;
    columns = Z / groups * rank;
    padded = (M + VL - 1) / VL * VL;
    width = PANEL / rank * rank;
    panels = (columns + width - 1) / width;
  }
};

struct Lane {
  const float *drive, *carry, *input, *q;
  Lane(const Observation& o, const Sizes& z, int64_t b)
      : drive(o.drive + b * z.K * z.Z),
        carry(o.carry + b * z.K * z.S),
        input(o.input + b * z.M),
        q(o.q + b * z.S) {}
};

// J_h (S, N) = ds/dh_tm1, all paths.
static void form_J_h(const Observation& o, const Sizes& z, const Lane& lane, float* J) {
  const int N = z.N, G = z.G;
  const size_t stride = size_t(o.W_stride), gate = stride * N;
  for (int k = 0; k < z.K; k++)
    for (int n = 0; n < N; n++) {
      const float* d = lane.drive + size_t(k) * z.Z + n;
      const float* W = o.W_h + stride * n;
      float* row = J + (size_t(k) * N + n) * N;
      if (G == 4) {
        const float d0 = d[0], d1 = d[N], d2 = d[2 * N], d3 = d[3 * N];
        for (int m = 0; m < N; m++)
          row[m] = d0 * W[m] + d1 * W[gate + m] + d2 * W[2 * gate + m] + d3 * W[3 * gate + m];
      } else {
        for (int m = 0; m < N; m++) row[m] = d[0] * W[m];
        for (int g = 1; g < G; g++)
          for (int m = 0; m < N; m++) row[m] += d[g * N] * W[g * gate + m];
      }
      row[n] += lane.carry[size_t(k) * z.S + n];
    }
}

// (MR, depth) times (depth, 2 vectors of a panel).
template <int MR>
inline void tile(const float* a, size_t stride, const float* b, float* c, int depth) {
  vf x[MR][2];  // in registers: every loop over it is unrolled
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++) x[i][0] = x[i][1] = vf{};
  for (int k = 0; k < depth; k++) {
    const vf b0 = load(b + PANEL * k), b1 = load(b + PANEL * k + VL);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      const float s = a[i * stride + k];
      x[i][0] += s * b0;
      x[i][1] += s * b1;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++) {
    store(c + PANEL * i, x[i][0]);
    store(c + PANEL * i + VL, x[i][1]);
  }
}

// out (rows, 32) = a (rows, depth) b (depth, 32)
static void multiply(int rows, int depth, const float* a, size_t stride, const float* b, float* out) {
  constexpr int MR = VL == 8 ? 6 : 12;  // what the registers hold
  for (int half = 0; half < PANEL; half += 2 * VL) {
    const float* right = b + half;
    int m = 0;
    for (; m + MR <= rows; m += MR) tile<MR>(a + m * stride, stride, right, out + PANEL * m + half, depth);
    if (MR > 8)
      for (; m + 8 <= rows; m += 8) tile<8>(a + m * stride, stride, right, out + PANEL * m + half, depth);
    for (; m + 4 <= rows; m += 4) tile<4>(a + m * stride, stride, right, out + PANEL * m + half, depth);
    for (; m < rows; m++) tile<1>(a + m * stride, stride, right, out + PANEL * m + half, depth);
  }
}

// Copy `width` numbers between rows; whole vectors, the last one overlapping.
inline void copy_row(const float* from, float* to, int width) {
  if (width < VL) {
    for (int i = 0; i < width; i++) to[i] = from[i];
    return;
  }
  for (int i = 0; i + VL <= width; i += VL) store(to + i, load(from + i));
  if (width % VL) store(to + width - VL, load(from + width - VL));
}

static void pack(const float* A, size_t stride, int rows, int width, float* panel) {
  for (int i = 0; i < rows; i++) {
    if (width < PANEL)
      for (int j = 0; j < PANEL; j += VL) store(panel + PANEL * i + j, vf{});
    copy_row(A + stride * i, panel + PANEL * i, width);
  }
}

// One panel of J A: `packed` holds it of A (all S rows), `out` receives it. Also q^T (J A), one
// number a column, into `pulled`; and the sum of all squares.
static float push_panel(const Sizes& z, const Lane& lane, const float* J, const float* packed,
                        float* out, float* pulled) {
  const int N = z.N;
  multiply(z.S, N, J, N, packed, out);
  vf p[VECTORS], squares = {};
  for (int v = 0; v < VECTORS; v++) p[v] = vf{};
  for (int k = 0; k < z.K; k++)
    for (int n = 0; n < N; n++) {
      float* row = out + PANEL * (size_t(k) * N + n);
      const float q = lane.q[k * N + n];
      for (int v = 0; v < VECTORS; v++) {
        vf x = load(row + VL * v);
        for (int l = 1; l < z.K; l++)
          x += lane.carry[(size_t(k) * z.K + l) * N + n] * load(packed + PANEL * (size_t(l) * N + n) + VL * v);
        if (z.K > 1) store(row + VL * v, x);
        p[v] += q * x;
        squares += x * x;
      }
    }
  for (int v = 0; v < VECTORS; v++) store(pulled + VL * v, p[v]);
  return sum(squares);
}

// gradient (Z, M) rows `first`.. += sum over i of p_i (rows) V_i^T; p_i are `stride` apart.
static void add_outer(int rows, int count, const float* p, size_t stride, const float* V, int padded,
                      int M, float* gradient) {
  for (int row = 0; row < rows; row++, gradient += M) {
    float c[MOST];
    for (int i = 0; i < count; i++) c[i] = p[i * stride + row];
    int m = 0;
    for (; m + VL <= M; m += VL) {
      vf g = load(gradient + m);
      for (int i = 0; i < count; i++) g += c[i] * load(V + size_t(i) * padded + m);
      store(gradient + m, g);
    }
    for (; m < M; m++)
      for (int i = 0; i < count; i++) gradient[m] += c[i] * V[size_t(i) * padded + m];
  }
}

}  // namespace KERNELS
