// The small dense algebra of OK, in double: stream_rnn/credit/small_matrices.py, four problems at once.
//
// Same pivots, same order of rotations, same signs as there; it only stops once nothing turns.
#pragma once
#include "simd.hpp"

namespace KERNELS {

constexpr int AT_ONCE = 4;
typedef double vd __attribute__((vector_size(8 * AT_ONCE)));
typedef int64_t vm __attribute__((vector_size(8 * AT_ONCE)));
typedef vd Matrix[MOST * MOST];

inline vd root(vd x) {
#if defined(__AVX2__)
  return static_cast<vd>(_mm256_sqrt_pd(static_cast<__m256d>(x)));
#else
  for (int i = 0; i < AT_ONCE; i++) x[i] = std::sqrt(x[i]);
  return x;
#endif
}
inline bool any(vm mask) { return (mask[0] | mask[1] | mask[2] | mask[3]) != 0; }

// Upper triangular R and T with R T = I; pivots raised to `floor` times the diagonal, what is right of
// these zero; a column that is exactly zero is dropped exactly. `gram` is used up.
static void floored_cholesky(int n, Matrix gram, double floor, Matrix R, Matrix T) {
  const vd zero = {};
  vd least[MOST];
  vm alive[MOST];
  for (int j = 0; j < n; j++) {
    const vd diagonal = gram[j * n + j];
    least[j] = diagonal * floor;
    alive[j] = diagonal > 0.0;
  }
  for (int i = 0; i < n * n; i++) R[i] = T[i] = zero;
  for (int j = 0; j < n; j++) {
    const vm counts = gram[j * n + j] > least[j];
    const vd pivot = counts ? gram[j * n + j] : least[j];
    const vd length = alive[j] ? root(pivot) : zero;
    const vd inverse = alive[j] ? 1.0 / length : zero;
    R[j * n + j] = length;
    T[j * n + j] = inverse;
    for (int k = j + 1; k < n; k++) R[j * n + k] = counts ? gram[j * n + k] * inverse : zero;
    for (int i = j + 1; i < n; i++)
      for (int k = i; k < n; k++) gram[i * n + k] -= R[j * n + i] * R[j * n + k];
  }
  for (int column = 1; column < n; column++)
    for (int i = column - 1; i >= 0; i--) {
      vd s = zero;
      for (int j = i + 1; j <= column; j++) s -= R[i * n + j] * T[j * n + column];
      T[i * n + column] = s * T[i * n + i];
    }
}

inline int sweeps_of(int n) { return n == 2 ? 1 : n <= 6 ? 5 : n <= 10 ? 8 : 11; }

// One-sided Jacobi: rotates the rows of C and of Z together until the rows of C are orthogonal.
static void orthogonalize(int n, Matrix C, Matrix Z) {
  const int sweeps = sweeps_of(n), even = n + n % 2, pairs = even / 2;
  int top[MOST], bottom[MOST];
  for (int i = 0; i < pairs; i++) top[i] = 2 * i, bottom[i] = 2 * i + 1;
  for (int sweep = 0; sweep < sweeps; sweep++) {
    bool turned = false;
    for (int round = 0; round < even - 1; round++) {
      for (int pair = 0; pair < pairs; pair++) {
        if (top[pair] >= n || bottom[pair] >= n) continue;  // a zero row that nobody turns with
        vd *x = C + top[pair] * n, *y = C + bottom[pair] * n;
        vd alpha = {}, beta = {}, gamma = {};
        for (int i = 0; i < n; i++) {
          alpha += x[i] * x[i];
          beta += y[i] * y[i];
          gamma += x[i] * y[i];
        }
        const vm needed = gamma * gamma > alpha * beta * 1e-31;
        if (!any(needed)) continue;
        turned = true;
        // tan of the smaller of the two angles that make the pair orthogonal
        const vd delta = alpha - beta, twice = gamma + gamma;
        const vd size = delta < 0.0 ? -delta : delta;
        const vd tangent_up = twice / (size + root(delta * delta + twice * twice));
        const vd zero = {};
        const vd tangent = needed ? (delta < 0.0 ? -tangent_up : tangent_up) : zero;
        const vd c = 1.0 / root(tangent * tangent + 1.0), s = c * tangent;
        for (int i = 0; i < n; i++) {
          const vd a = x[i], b = y[i];
          x[i] = c * a + s * b;
          y[i] = c * b - s * a;
        }
        x = Z + top[pair] * n, y = Z + bottom[pair] * n;
        for (int i = 0; i < n; i++) {
          const vd a = x[i], b = y[i];
          x[i] = c * a + s * b;
          y[i] = c * b - s * a;
        }
      }
      if (pairs > 1) {  // the circle method: row 0 stays, the others move one seat on
        const int first = bottom[0], last = top[pairs - 1];
        for (int i = pairs - 1; i > 1; i--) top[i] = top[i - 1];
        top[1] = first;
        for (int i = 0; i + 1 < pairs; i++) bottom[i] = bottom[i + 1];
        bottom[pairs - 1] = last;
      }
    }
    if (!turned) return;
  }
}

#if VL == 16
// The same for one problem alone, its pairs side by side: the pairs of a round have no row in common.
typedef double seats __attribute__((vector_size(64)));
typedef int64_t places __attribute__((vector_size(64)));

static void orthogonalize_one(int n, Matrix C, Matrix Z) {
  const int sweeps = sweeps_of(n), even = n + n % 2, pairs = even / 2;
  seats top[2 * MOST] = {}, bottom[2 * MOST] = {};  // columns of C, then of Z
  const auto each = [&](auto visit) {
    for (int row = 0; row < n; row++)
      for (int i = 0; i < n; i++) {
        visit((row % 2 ? bottom : top)[i], row / 2, C[row * n + i]);
        visit((row % 2 ? bottom : top)[n + i], row / 2, Z[row * n + i]);
      }
  };
  each([](seats& at, int seat, const vd& x) { at[seat] = x[0]; });
  places to_top = {}, to_bottom = {};  // row 0 stays, the others move one seat on; 8 + i: of the bottom
  for (int i = 0; i < 8; i++) {
    to_top[i] = i == 0 ? 0 : i == 1 ? 8 : i - 1;
    to_bottom[i] = i + 1 < pairs ? 9 + i : pairs - 1;
  }
  const __m512i up = __m512i(to_top), down = __m512i(to_bottom);
  for (int sweep = 0; sweep < sweeps; sweep++) {
    bool turned = false;
    for (int round = 0; round < even - 1; round++) {
      seats alpha = {}, beta = {}, gamma = {};
      for (int i = 0; i < n; i++) {
        alpha += top[i] * top[i];
        beta += bottom[i] * bottom[i];
        gamma += top[i] * bottom[i];
      }
      const places needed = gamma * gamma > alpha * beta * 1e-31;
      const bool turns = _mm512_movepi64_mask(__m512i(needed)) & ((1 << pairs) - 1);
      seats c = seats{} + 1.0, s = {};
      if (turns) {
        turned = true;
        const seats delta = alpha - beta, twice = gamma + gamma, size = delta < 0.0 ? -delta : delta;
        const seats length = seats(_mm512_sqrt_pd(__m512d(delta * delta + twice * twice)));
        const seats tangent_up = twice / (size + length);
        const seats tangent = needed ? (delta < 0.0 ? -tangent_up : tangent_up) : seats{};
        c = 1.0 / seats(_mm512_sqrt_pd(__m512d(tangent * tangent + 1.0)));
        s = c * tangent;
      }
      for (int i = 0; i < 2 * n; i++) {
        const __m512d a = __m512d(c * top[i] + s * bottom[i]), b = __m512d(c * bottom[i] - s * top[i]);
        top[i] = seats(_mm512_permutex2var_pd(a, up, b));
        bottom[i] = seats(_mm512_permutex2var_pd(a, down, b));
      }
    }
    if (!turned) break;
  }
  each([](const seats& at, int seat, vd& x) { x = vd{} + at[seat]; });
}
#endif

// Steps 4 to 8 of docs/algorithms.md 6.1 for one problem: L (n, r) of the singular values, which are
// in no order; `lane` is its place in the vectors. Returns the variance it costs.
static double mixing(int n, const vd* sigmas, const float* signs, int lane, Matrix L) {
  const int r = n - 1;
  int order[MOST];
  double sigma[MOST], tail[MOST + 1], z[MOST], norm = 0, variance = 0;
  for (int j = 0; j < n; j++) {  // a stable sort, descending
    int place = j;
    for (; place > 0 && sigmas[order[place - 1]][lane] < sigmas[j][lane]; place--)
      order[place] = order[place - 1];
    order[place] = j;
  }
  const double largest = sigmas[order[0]][lane];
  for (int j = 0; j < n; j++) {
    sigma[j] = sigmas[order[j]][lane];
    if (!(sigma[j] >= 1e-6 * largest)) sigma[j] = 0;
  }
  tail[n] = 0;
  for (int j = n - 1; j >= 0; j--) tail[j] = tail[j + 1] + sigma[j];
  int p = 0;  // kept exactly: the first p
  while (p < r - 1 && !((r - p) * sigma[p] <= tail[p])) p++;
  const double q = r - p, s = tail[p];
  for (int j = 0; j < n; j++) {
    const double share = s > 0 ? sigma[j] * q / s : 0;
    z[j] = j >= p && share < 1 ? std::sqrt(1 - share) : 0;
    norm += z[j] * z[j];
    if (j >= p) variance -= sigma[j] * sigma[j];
  }
  for (int j = 0; j < n; j++) z[j] /= std::sqrt(norm);
  const double last = 1 / (z[r] + 1), mixed = std::sqrt(s / q);
  for (int j = 0; j < n; j++) {
    const double d = j < p ? std::sqrt(sigma[j]) : signs[j] * mixed;
    const double w = z[j] + (j == r);
    for (int k = 0; k < r; k++) L[order[j] * r + k][lane] = d * ((j == k) - w * z[k] * last);
  }
  return s * s / q + variance;
}

// n numbers each of up to four problems, which are one after another, side by side; in place of those
// that are missing the first one again.
__attribute__((noinline)) static void gather(int n, int count, const double* from, vd* to) {
  const double* of[AT_ONCE];
  for (int l = 0; l < AT_ONCE; l++) of[l] = from + (l < count ? l * n : 0);
  for (int i = 0; i < n; i++) to[i] = vd{of[0][i], of[1][i], of[2][i], of[3][i]};
}

// The (n, r) mixing matrices of up to four problems. Gram matrices, mixing matrices, variances and
// signs of one problem after another.
static void reduce(int n, int count, const double* gram_V, const double* gram_A, const float* signs,
                   float* mix_V, float* mix_A, double* variance) {
  const int r = n - 1;
  const vd zero = {};
  Matrix gram, R_V, T_V, R_A, T_A, C, Z, L;
  gather(n * n, count, gram_V, gram);
  floored_cholesky(n, gram, 1e-15, R_V, T_V);
  gather(n * n, count, gram_A, gram);
  floored_cholesky(n, gram, 1e-6, R_A, T_A);
  for (int j = 0; j < n; j++)  // row j: column j of R_V R_A^T
    for (int i = 0; i < n; i++) {
      vd s = zero;
      for (int k = i > j ? i : j; k < n; k++) s += R_V[i * n + k] * R_A[j * n + k];
      C[j * n + i] = s;
      Z[j * n + i] = i == j ? zero + 1.0 : zero;
    }
#if VL == 16
  if (count == 1 && n > 2 && n <= 16)
    orthogonalize_one(n, C, Z);
  else
#endif
    orthogonalize(n, C, Z);
  vd sigma[MOST];
  for (int j = 0; j < n; j++) {
    vd s = zero;
    for (int i = 0; i < n; i++) s += C[j * n + i] * C[j * n + i];
    sigma[j] = root(s);
    const vd inverse = sigma[j] > 0.0 ? 1.0 / sigma[j] : zero;
    for (int i = 0; i < n; i++) C[j * n + i] *= inverse;
  }
  for (int i = 0; i < n * r; i++) L[i] = zero;
  for (int l = 0; l < count; l++) variance[l] = mixing(n, sigma, signs + l * n, l, L);
  Matrix &left = R_V, &right = R_A;  // no longer needed
  for (int i = 0; i < n; i++)
    for (int k = 0; k < r; k++) {
      vd a = zero, b = zero;
      for (int j = 0; j < n; j++) {
        a += C[j * n + i] * L[j * r + k];
        b += Z[j * n + i] * L[j * r + k];
      }
      left[i * r + k] = a;
      right[i * r + k] = b;
    }
  for (int i = 0; i < n; i++)
    for (int k = 0; k < r; k++) {
      vd a = zero, b = zero;
      for (int j = i; j < n; j++) {
        a += T_V[i * n + j] * left[j * r + k];
        b += T_A[i * n + j] * right[j * r + k];
      }
      for (int l = 0; l < count; l++) {
        mix_V[l * n * r + i * r + k] = static_cast<float>(a[l]);
        mix_A[l * n * r + i * r + k] = static_cast<float>(b[l]);
      }
    }
}

}  // namespace KERNELS
