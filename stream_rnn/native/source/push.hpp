// J A for one lane: J_h is formed once, then multiplied with A in panels of 32 columns.
#pragma once
#include <algorithm>
#include <type_traits>

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

// J_h (S, N) = ds/dh_tm1, all paths: K rows for each row of W's gates.
template <int K>
static void form_J_h_of(const Observation& o, const Sizes& z, const Lane& lane, float* J) {
  const int N = z.N, G = z.G;
  const size_t stride = size_t(o.W_stride), gate = stride * N;
  for (int n = 0; n < N; n++) {
    const float *W = o.W_h + stride * n, *drive = lane.drive + n;
    by_vectors(N, [&](int m, auto at) {
      vf sums[K] = {};
      for (int g = 0; g < G; g++) {
        const vf w = at.get(W + g * gate + m);
        for (int k = 0; k < K; k++) sums[k] += drive[k * z.Z + g * N] * w;
      }
      for (int k = 0; k < K; k++) at.put(J + (size_t(k) * N + n) * N + m, sums[k]);
    });
    for (int k = 0; k < K; k++) J[(size_t(k) * N + n) * N + n] += lane.carry[size_t(k) * z.S + n];
  }
}

static void form_J_h(const Observation& o, const Sizes& z, const Lane& lane, float* J) {
  z.K == 1 ? form_J_h_of<1>(o, z, lane, J) : form_J_h_of<2>(o, z, lane, J);
}

// (MR, depth) times (depth, 2 vectors of a panel).
template <int MR>
inline void tile(const float* a, size_t stride, const float* b, int depth, vf (*x)[2]) {
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
}

constexpr int MR = VL == 8 ? 6 : 12;  // rows of a tile: what the registers hold

// Calls `each(first row, rows of a tile)` until all rows are covered.
template <class Each>
inline void by_tiles(int rows, const Each& each) {
  int m = 0;
  for (; m + MR <= rows; m += MR) each(m, std::integral_constant<int, MR>{});
  if (MR > 8)
    for (; m + 8 <= rows; m += 8) each(m, std::integral_constant<int, 8>{});
  for (; m + 4 <= rows; m += 4) each(m, std::integral_constant<int, 4>{});
  for (; m < rows; m++) each(m, std::integral_constant<int, 1>{});
}

// A tile of the product below; not inlined, since the compiler then keeps all of it in registers.
template <int N>
__attribute__((noinline)) static void multiply_tile(const float* a, size_t stride, const float* b, float* out,
                                                    int depth) {
  vf x[N][2];
  tile<N>(a, stride, b, depth, x);
#pragma GCC unroll 16
  for (int i = 0; i < N; i++)
    for (int v = 0; v < 2; v++) store(out + PANEL * i + VL * v, x[i][v]);
}

// out (rows, 32) = a (rows, depth) b (depth, 32)
static void multiply(int rows, int depth, const float* a, size_t stride, const float* b, float* out) {
  for (int half = 0; half < PANEL; half += 2 * VL)
    by_tiles(rows, [&](int m, auto n) {
      multiply_tile<n>(a + m * stride, stride, b + half, out + PANEL * m + half, depth);
    });
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

struct Rows {  // `stride` numbers apart
  float* at;
  size_t stride;
};

// Two vectors of N rows of a panel of J A, and what they add to `sums`: twice q^T (J A), one number a
// column, and twice the squares, if wanted. Not inlined: as above.
template <int N, bool CARRIED, bool SQUARED>
__attribute__((noinline)) static void push_tile(const float* a, int depth, const float* packed, const float* carry,
                                                const float* q, Rows others, Rows out, vf* sums) {
  vf x[N][2];
  tile<N>(a, depth, packed, depth, x);
  vf p0 = sums[0], p1 = sums[1], s0 = sums[2], s1 = sums[3];
#pragma GCC unroll 16
  for (int i = 0; i < N; i++) {
    if (CARRIED) {
      x[i][0] += carry[i] * load(others.at + i * others.stride);
      x[i][1] += carry[i] * load(others.at + i * others.stride + VL);
    }
    store(out.at + i * out.stride, x[i][0]);
    store(out.at + i * out.stride + VL, x[i][1]);
    p0 += q[i] * x[i][0];
    p1 += q[i] * x[i][1];
    if (SQUARED) {
      s0 += x[i][0] * x[i][0];
      s1 += x[i][1] * x[i][1];
    }
  }
  sums[0] = p0;
  sums[1] = p1;
  sums[2] = s0;
  sums[3] = s1;
}

// Two vectors of each row of a panel of J A: `packed` holds the first N rows of A, `others` the rows
// after them, which `out` may be too.
template <int K, bool SQUARED>
static void push_half(int N, const Lane& lane, const float* J, const float* packed, Rows others, Rows out,
                      vf* sums) {
  for (int k = 0; k < K; k++) {
    const float *of_k = J + size_t(k) * N * N, *q = lane.q + k * N, *carry = lane.carry + (size_t(k) * K + 1) * N;
    float* to = out.at + size_t(k) * N * out.stride;
    by_tiles(N, [&](int m, auto n) {
      push_tile<n, K == 2, SQUARED>(of_k + size_t(m) * N, N, packed, carry + m, q + m,
                                    {others.at + m * others.stride, others.stride}, {to + m * out.stride, out.stride},
                                    sums);
    });
  }
}

// A panel of J A, `width` wide, from the rows of A (S, columns); `pulled` receives q^T (J A). Whole
// panels may go where they came from. Returns the sum of all squares, if wanted.
template <bool SQUARED>
static float push_panel(const Sizes& z, const Lane& lane, const float* J, const float* A, size_t columns,
                        int width, float* packed, Rows out, float* pulled) {
  const bool whole = width == PANEL;
  pack(A, columns, whole ? z.N : z.S, width, packed);
  Rows others = {packed + size_t(z.N) * PANEL, PANEL};
  if (whole) others = {const_cast<float*>(A) + size_t(z.N) * columns, columns};
  vf total = {};
  for (int half = 0; half < PANEL; half += 2 * VL) {
    const Rows from = {others.at + half, others.stride}, to = {out.at + half, out.stride};
    vf sums[4] = {};
    if (z.K == 1)
      push_half<1, SQUARED>(z.N, lane, J, packed + half, from, to, sums);
    else
      push_half<2, SQUARED>(z.N, lane, J, packed + half, from, to, sums);
    store(pulled + half, sums[0]);
    store(pulled + half + VL, sums[1]);
    total += sums[2] + sums[3];
  }
  return SQUARED ? sum(total) : 0.0f;
}

// gradient (Z, M) rows `first`.. += sum over i of p_i (rows) V_i^T; p_i are `stride` apart.
template <int COUNT>
static void add_products_of(int rows, const float* p, size_t stride, const float* V, int padded, int M,
                            float* gradient) {
  for (int m = 0; m < M; m += VL) {
    vf v[COUNT];
    for (int i = 0; i < COUNT; i++) v[i] = load(V + size_t(i) * padded + m);
    const auto add = [&](auto span) {
      float* to = gradient + m;
      for (int row = 0; row < rows; row++, to += M) {
        vf g = span.get(to);
#pragma GCC unroll 4
        for (int i = 0; i < COUNT; i++) g += p[i * stride + row] * v[i];
        span.put(to, g);
      }
    };
    if (m + VL <= M)
      add(Whole{});
    else
      add(Rest{M - m});
  }
}

static void add_outer(int rows, int count, const float* p, size_t stride, const float* V, int padded,
                      int M, float* gradient) {
  int i = 0;
  for (; i + 4 <= count; i += 4)
    add_products_of<4>(rows, p + i * stride, stride, V + size_t(i) * padded, padded, M, gradient);
  for (; i + 2 <= count; i += 2)
    add_products_of<2>(rows, p + i * stride, stride, V + size_t(i) * padded, padded, M, gradient);
  for (; i < count; i++)
    add_products_of<1>(rows, p + i * stride, stride, V + size_t(i) * padded, padded, M, gradient);
}

}  // namespace KERNELS
