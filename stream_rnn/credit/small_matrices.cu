// The small matrices of the OK projection in one launch, one problem a warp: what small_matrices.py
// says in hundreds of tensor operations, for data in float32. Also compiles as C++ on a host, where
// a warp is a loop; there it is judged by that file.
//
// A problem: two Gram matrices (n, n) and n signs give two mixing matrices (n, r), r = n - 1, and a
// variance. Everything is in double, in `room`, which is shared by the warp.

#ifdef __CUDACC__
#define EACH(i, count) for (int i = threadIdx.x; i < (count); i += 32)
#define TOGETHER __syncwarp()
#define ON_DEVICE static __device__
#else
#include <cmath>
#include <vector>
#ifdef BACKWARDS  // what one of a warp does must not depend on what another does meanwhile
#define EACH(i, count) for (int i = (count) - 1; i >= 0; i--)
#else
#define EACH(i, count) for (int i = 0; i < (count); i++)
#endif
#define TOGETHER
#define ON_DEVICE static
using std::sqrt;
#endif

constexpr int MOST = 26;  // n, rounded up to even: about what 48 KiB of shared memory hold

// Where everything is. `seats` are rows of W: 2 i and 2 i + 1 meet in this round.
struct Room {
  double *V, *A;  // (n, 2 n): [R | T^T] of the Gram matrices
  double *W;      // (even, 2 n): columns of C, then of Z, as rows
  double *turns;  // (even): cosine and sine of each pair
  double *sigma, *L, *left, *right;
  double* facts;  // variance
  int *seats, *next, *order, *flags;

  ON_DEVICE int bytes(int n) {
    const int even = n + n % 2, r = n - 1;
    return 8 * (4 * n * n + even * 2 * n + even + n + 3 * n * r + 2) + 4 * (2 * even + n + 2);
  }

#ifdef __CUDACC__
  __device__
#endif
  Room(double* at, int n) {
    const int even = n + n % 2, r = n - 1;
    V = at, at += 2 * n * n;
    A = at, at += 2 * n * n;
    W = at, at += even * 2 * n;
    turns = at, at += even;
    sigma = at, at += n;
    L = at, at += n * r;
    left = at, at += n * r;
    right = at, at += n * r;
    facts = at, at += 2;
    seats = reinterpret_cast<int*>(at);
    next = seats + even;
    order = next + even;
    flags = order + n;
  }
};

// [gram | I] becomes [R | T^T]: a pivot below `floor` times its first value is raised to that and the
// rest of its row of R is zero, a column that is exactly zero is dropped exactly. `first` keeps the diagonal.
ON_DEVICE void floored_cholesky(int n, const double* gram, double floor, double* work, double* first) {
  EACH(i, n * 2 * n) {
    const int row = i / (2 * n), column = i % (2 * n);
    work[i] = column < n ? gram[row * n + column] : column - n == row;
  }
  EACH(i, n) first[i] = gram[i * n + i];
  TOGETHER;
  for (int j = 0; j < n; j++) {
    double* row = work + j * 2 * n;
    const double least = first[j] * floor, now = row[j], pivot = now > least ? now : least;
    const double inverse = first[j] > 0 ? 1 / sqrt(pivot) : 0;
    TOGETHER;  // everybody has read the pivot
    EACH(k, 2 * n) row[k] = k == j ? pivot * inverse : now > least || k < j || k >= n ? row[k] * inverse : 0;
    TOGETHER;
    EACH(i, (n - 1 - j) * 2 * n) {
      const int below = j + 1 + i / (2 * n), k = i % (2 * n);
      work[below * 2 * n + k] -= row[below] * row[k];
    }
    TOGETHER;
  }
  EACH(i, n * n)
    if (i % n < i / n) work[i / n * 2 * n + i % n] = 0;
  TOGETHER;
}

ON_DEVICE int sweeps_of(int n) { return n == 2 ? 1 : n <= 6 ? 5 : n <= 10 ? 8 : 11; }

// One-sided Jacobi: rotates the rows of W until their first halves are orthogonal.
ON_DEVICE void orthogonalize(int n, const Room& room) {
  const int even = n + n % 2, pairs = even / 2, sweeps = sweeps_of(n);
  EACH(i, even) room.seats[i] = i;
  for (int sweep = 0; sweep < sweeps; sweep++) {
    EACH(i, 1) room.flags[0] = 0;
    TOGETHER;
    for (int round = 0; round < even - 1; round++) {
      EACH(pair, pairs) {
        const double* x = room.W + room.seats[2 * pair] * 2 * n;
        const double* y = room.W + room.seats[2 * pair + 1] * 2 * n;
        double alpha = 0, beta = 0, gamma = 0, c = 1, s = 0;
        for (int i = 0; i < n; i++) alpha += x[i] * x[i], beta += y[i] * y[i], gamma += x[i] * y[i];
        if (gamma * gamma > alpha * beta * 1e-31) {
          // the smaller of the two angles that make the pair orthogonal
          const double delta = alpha - beta, twice = gamma + gamma, size = delta < 0 ? -delta : delta;
          const double up = twice / (size + sqrt(delta * delta + twice * twice));
          const double tangent = delta < 0 ? -up : up;
          c = 1 / sqrt(tangent * tangent + 1), s = c * tangent;
          room.flags[0] = 1;
        }
        room.turns[2 * pair] = c, room.turns[2 * pair + 1] = s;
      }
      // the circle method: the first stays, the others move one seat on
      EACH(i, even) {
        const int from = i < 2 || even == 2 ? (i == 0 || even == 2 ? i : 3)
                         : i == 2           ? 1
                         : i % 2 == 0       ? i - 2
                         : i == even - 1    ? even - 2
                                            : i + 2;
        room.next[i] = room.seats[from];
      }
      TOGETHER;
      EACH(i, pairs * 2 * n) {
        const int pair = i / (2 * n), k = i % (2 * n);
        double *x = room.W + room.seats[2 * pair] * 2 * n + k, *y = room.W + room.seats[2 * pair + 1] * 2 * n + k;
        const double c = room.turns[2 * pair], s = room.turns[2 * pair + 1], a = *x, b = *y;
        *x = c * a + s * b;
        *y = c * b - s * a;
      }
      TOGETHER;
      EACH(i, even) room.seats[i] = room.next[i];
      TOGETHER;
    }
    const int turned = room.flags[0];
    TOGETHER;
    if (!turned) return;
  }
}

// Steps 4 to 8 of docs/algorithms.md 6.1: L (n, r), its rows where the singular values are.
ON_DEVICE void mixing(int n, const float* signs, const Room& room) {
  const int r = n - 1;
  EACH(j, n) {  // a stable sort, descending
    int place = 0;
    for (int i = 0; i < n; i++) place += room.sigma[i] > room.sigma[j] || (room.sigma[i] == room.sigma[j] && i < j);
    room.order[place] = j;
  }
  TOGETHER;
  EACH(alone, 1) {
    double sigma[MOST], tail[MOST + 1], z[MOST], norm = 0, variance = 0;
    const double least = 1e-6 * room.sigma[room.order[0]];
    for (int j = 0; j < n; j++) {
      sigma[j] = room.sigma[room.order[j]];
      if (!(sigma[j] >= least)) sigma[j] = 0;
    }
    tail[n] = 0;
    for (int j = n - 1; j >= 0; j--) tail[j] = tail[j + 1] + sigma[j];
    int p = 0;  // kept exactly: the first p
    while (p < r - 1 && !((r - p) * sigma[p] <= tail[p])) p++;
    const double q = r - p, s = tail[p];
    for (int j = 0; j < n; j++) {
      const double share = s > 0 ? sigma[j] * q / s : 0;
      z[j] = j >= p && share < 1 ? sqrt(1 - share) : 0;
      norm += z[j] * z[j];
      if (j >= p) variance -= sigma[j] * sigma[j];
    }
    norm = sqrt(norm);
    for (int j = 0; j < n; j++) z[j] /= norm;
    const double last = 1 / (z[r] + 1), mixed = sqrt(s / q);
    for (int j = 0; j < n; j++) {
      const double d = j < p ? sqrt(sigma[j]) : signs[j] * mixed, w = z[j] + (j == r);
      for (int k = 0; k < r; k++) room.L[room.order[j] * r + k] = d * ((j == k) - w * z[k] * last);
    }
    room.facts[0] = s * s / q + variance;
  }
  TOGETHER;
}

ON_DEVICE void solve(int n, const double* gram_V, const double* gram_A, const float* signs, double* at, double* mix_V,
                     double* mix_A, double* variance) {
  const int even = n + n % 2, r = n - 1;
  const Room room(at, n);
  floored_cholesky(n, gram_V, 1e-15, room.V, room.sigma);
  floored_cholesky(n, gram_A, 1e-6, room.A, room.sigma);
  EACH(i, even * 2 * n) {  // row j: column j of R_V R_A^T, then of the unit matrix
    const int j = i / (2 * n), k = i % (2 * n);
    double sum = 0;
    if (j < n && k < n)
      for (int m = j > k ? j : k; m < n; m++) sum += room.V[k * 2 * n + m] * room.A[j * 2 * n + m];
    room.W[i] = k < n ? sum : k - n == j;
  }
  TOGETHER;
  orthogonalize(n, room);
  EACH(j, n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += room.W[j * 2 * n + i] * room.W[j * 2 * n + i];
    room.sigma[j] = sqrt(sum);
  }
  TOGETHER;
  EACH(i, n * n) {
    const double sigma = room.sigma[i / n];
    room.W[i / n * 2 * n + i % n] *= sigma > 0 ? 1 / sigma : 0;
  }
  mixing(n, signs, room);
  EACH(i, n * r) {
    double a = 0, b = 0;
    for (int j = 0; j < n; j++) {
      a += room.W[j * 2 * n + i / r] * room.L[j * r + i % r];
      b += room.W[j * 2 * n + n + i / r] * room.L[j * r + i % r];
    }
    room.left[i] = a, room.right[i] = b;
  }
  TOGETHER;
  EACH(i, n * r) {
    double a = 0, b = 0;
    for (int j = i / r; j < n; j++) {  // row i of T is column i of T^T
      a += room.V[j * 2 * n + n + i / r] * room.left[j * r + i % r];
      b += room.A[j * 2 * n + n + i / r] * room.right[j * r + i % r];
    }
    mix_V[i] = a, mix_A[i] = b;
  }
  EACH(alone, 1) *variance = room.facts[0];
  TOGETHER;
}

// `gram` (2 problems, n, n): those of all V, then those of all A; `mix` (2 problems, n, r) likewise;
// `signs` (problems, n); `variance` (problems).
#ifdef __CUDACC__
extern "C" __global__ void reduce(const double* gram, const float* signs, double* mix, double* variance, int n) {
  extern __shared__ double at[];
  const long p = blockIdx.x, problems = gridDim.x, r = n - 1;
  solve(n, gram + p * n * n, gram + (problems + p) * n * n, signs + p * n, at, mix + p * n * r,
        mix + (problems + p) * n * r, variance + p);
}
#else
extern "C" void reduce(const double* gram, const float* signs, double* mix, double* variance, int n, int problems) {
  std::vector<double> at(Room::bytes(n) / 8 + 1);
  for (long p = 0, r = n - 1; p < problems; p++)
    solve(n, gram + p * n * n, gram + (problems + p) * n * n, signs + p * n, at.data(), mix + p * n * r,
          mix + (problems + p) * n * r, variance + p);
}
#endif
