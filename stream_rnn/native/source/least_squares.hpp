// The read-out that owns its update (stream_rnn/least_squares.py), one event of one lane at a time.
#pragma once
#include <algorithm>

#include "abi.hpp"
#include "simd.hpp"

namespace KERNELS {

constexpr double SIZE_RATE = 0.02, LEAST_SIZE = 0.01, WINDUP = 1e4, LAST_RESORT = 10.0;

struct SquaresWork {
  double *f, *Cf, *spare, *C, *psi;  // C: the next one, taken over if it is sound
  float* V;
  SquaresWork(Arena& arena, const Plan& plan, int F) {
    const size_t size = plan.squares.C ? F : 0;
    f = arena.take<double>(size);
    Cf = arena.take<double>(size);
    spare = arena.take<double>(size);
    C = arena.take<double>(size * size);
    psi = arena.take<double>(plan.P);
    V = arena.take<float>(size * plan.P);
  }
};

// Calls `at(i)` for vectors that cover 0..F, the last one overlapping; `one(i)` where F is shorter.
template <class Each, class One>
inline void over(int F, const Each& at, const One& one) {
  if (F < DL) {
    for (int i = 0; i < F; i++) one(i);
    return;
  }
  for (int i = 0; i + DL <= F; i += DL) at(i);
  if (F % DL) at(F - DL);
}

// C f, for a C that is symmetric: sums of its rows
static void times(int F, const double* C, const double* f, double* Cf) {
  int i = 0;
  for (; i + 4 * DL <= F; i += 4 * DL) {
    dv sums[4] = {};
    for (int j = 0; j < F; j++)
      for (int k = 0; k < 4; k++) sums[k] += f[j] * load(C + size_t(j) * F + i + k * DL);
    for (int k = 0; k < 4; k++) store(Cf + i + k * DL, sums[k]);
  }
  over(
      F - i,
      [&](int at) {
        dv sums = {};
        for (int j = 0; j < F; j++) sums += f[j] * load(C + size_t(j) * F + i + at);
        store(Cf + i + at, sums);
      },
      [&](int at) {
        double sum = 0;
        for (int j = 0; j < F; j++) sum += f[j] * C[size_t(j) * F + i + at];
        Cf[i + at] = sum;
      });
}

// to = (C - by c c^T) scale, exactly symmetric like C, and perhaps C itself; `spare` is a row.
// `strange` stays what it is unless something is not finite.
static void lowered(int F, const double* C, double by, const double* c, double scale, double* to, double* spare,
                    double& strange) {
  dv odd = {};
  for (int i = 0; i < F; i++) {
    const double s = c[i];
    const double* from = C + size_t(i) * F;
    double* row = to + size_t(i) * F;
    if (from == row) from = static_cast<double*>(std::memcpy(spare, from, sizeof(double) * F));
    over(
        F,
        [&](int j) {
          const dv x = (load(from + j) - (s * load(c + j)) * by) * scale;
          store(row + j, x);
          odd += x * 0.0;
        },
        [&](int j) {
          row[j] = (from[j] - (s * c[j]) * by) * scale;
          strange += row[j] * 0.0;
        });
  }
  for (int l = 0; l < DL; l++) strange += odd[l];
}

// C without wind-up, in place: the widest weight is measured, or in the last resort all is scaled.
static void limit_variances(int F, double prior, double* C, double* c, double* spare, double& strange) {
  const double limit = prior * WINDUP, most = limit * LAST_RESORT;
  int at = 0;
  for (int i = 1; i < F; i++)
    if (C[size_t(i) * F + i] > C[size_t(at) * F + at]) at = i;
  const double widest = C[size_t(at) * F + at];
  if (widest > limit) {
    std::memcpy(c, C + size_t(at) * F, sizeof(double) * F);
    lowered(F, C, (1 - limit / widest) / widest, c, 1.0, C, spare, strange);
  }
  double trace = 0;
  for (int i = 0; i < F; i++) trace += C[size_t(i) * F + i];
  if (trace / F > most)
    for (size_t i = 0; i < size_t(F) * F; i++) C[i] *= most / (trace / F);
}

// Learns y (P) from the features of an event.
static void refit(const Plan& plan, const SquaresWork& w, int F, const float* features, const float* y) {
  const LeastSquares& at = plan.squares;
  const int P = int(plan.P);
  float* V = plan.readout.parameters[0].value;
  for (int i = 0; i < F; i++) w.f[i] = features[i];
  times(F, at.C, w.f, w.Cf);
  double variance = 0, taken = 1, strange = 0;
  for (int i = 0; i < F; i++) variance += w.f[i] * w.Cf[i];
  variance = variance < 0 ? 0 : variance;
  const double gain = 1 / (variance + at.forgetting);
  for (int p = 0; p < P; p++) {
    const float* from = V + size_t(p) * F;
    double error = y[p];
    for (int i = 0; i < F; i++) error -= double(from[i]) * w.f[i];
    const double bound = std::max(at.size[p], LEAST_SIZE) * at.reach;
    const double psi = w.psi[p] = std::min(std::max(error, -bound), bound);
    if (psi != error) taken = std::min(taken, psi / error);
    float* to = w.V + size_t(p) * F;
    for (int i = 0; i < F; i++) {
      to[i] = from[i] + float(psi * (w.Cf[i] * gain));
      strange += to[i] * 0.0f;
    }
  }
  lowered(F, at.C, taken / (variance * taken + at.forgetting), w.Cf, 1 / at.forgetting, w.C,
          w.spare, strange);
  limit_variances(F, at.prior, w.C, w.f, w.spare, strange);
  if (!(strange == 0)) return;  // NaN: something is not finite, and nothing was learned
  std::memcpy(V, w.V, sizeof(float) * F * P);
  std::memcpy(at.C, w.C, sizeof(double) * F * F);
  for (int p = 0; p < P; p++) at.size[p] += SIZE_RATE * (std::fabs(w.psi[p]) - at.size[p]);
}

}  // namespace KERNELS
