// SGD, Adam and ObGD with clipping and a conditional commit, and FPTT around them (stream_rnn/update).
#pragma once
#include <algorithm>
#include <cfloat>

#include "abi.hpp"
#include "simd.hpp"

namespace KERNELS {

// beta^n, as far as 1 - beta^n can tell it from 0; std::pow takes longer than all the rest of a
// small tick, and n is a whole number
inline double power(double beta, double n) {
  if (n * (1 - beta) > 45) return 0;  // beta^n < exp(-n (1 - beta))
  double result = 1;
  for (uint64_t left = uint64_t(n); left; left >>= 1, beta *= beta)
    if (left & 1) result *= beta;
  return result;
}

// How far ObGD goes along these gradients.
static float bounded_rate(const Step& step, const float* const gradients[3]) {
  vf largest = {};
  double total = 0;
  for (int i = 0; i < 3; i++) {
    const int64_t size = step.parameters[i].size;
    for (int64_t from = 0; from < size; from += 4096) {
      vf some = {};
      by_vectors(int(std::min<int64_t>(size - from, 4096)), [&](int n, auto at) {
        const vf g = at.get(gradients[i] + from + n), sizes = g < 0 ? -g : g;
        some += sizes;
        largest = sizes > largest ? sizes : largest;
      });
      total += sum(some);
    }
  }
  float of_all = 0;
  for (int l = 0; l < VL; l++) of_all = std::max(of_all, largest[l]);
  const double least_error = of_all / (2 * step.kappa);  // 2: the curvature of a squared error
  return float(std::min(std::min(least_error, 1.0) / (step.kappa * std::max(total, double(FLT_MIN))), step.lr));
}

// Moves the parameters by their gradients where `ok` and these are finite; whether it did.
static bool step_by(const Step& step, const float* const gradients[3], bool ok) {
  double squares = 0;
  for (int i = 0; i < 3; i++) {
    const int64_t size = step.parameters[i].size;
    for (int64_t from = 0; from < size; from += 4096) {
      const float* g = gradients[i] + from;
      squares += dot(g, g, int(size - from < 4096 ? size - from : 4096));
    }
  }
  const float norm = float(std::sqrt(squares));
  *step.norm = norm;
  if (!(ok && norm < INFINITY)) return false;
  const float scale = step.clip > 0 ? float(step.clip / (norm > step.clip ? norm : step.clip)) : 1.0f;
  const double n = step.kind == ADAM ? *step.count += 1 : 0;
  const float rate = float(step.lr / (1 - power(step.beta1, n)));
  const float root = float(std::sqrt(1 - power(step.beta2, n)));
  const float a = float(1 - step.beta1), b = float(step.beta2), c = float(1 - step.beta2);
  const float eps = float(step.eps), by_root = 1 / root;
  const float lr = step.kind == OBGD ? bounded_rate(step, gradients) : float(step.lr), momentum = float(step.momentum);
  for (int part = 0; part < 3; part++) {
    const Parameter& p = step.parameters[part];
    const float* __restrict gradient = gradients[part];
    float* __restrict value = p.value;
    float* __restrict first = p.first;
    float* __restrict second = p.second;
    if (step.kind == ADAM) {
      const vf of_first = all(a), keeps = all(b), of_second = all(c), tiny = all(eps), to_root = all(by_root);
      const auto moved = [&](vf g, vf& m, vf& v) {
        m += of_first * (g - m);
        v = v * keeps + of_second * g * g;
        return all(rate) * m * inverse(roots(v) * to_root + tiny);
      };
      int64_t i = 0;
      for (; i + VL <= p.size; i += VL) {
        vf m = load(first + i), v = load(second + i);
        store(value + i, load(value + i) - moved(load(gradient + i) * all(scale), m, v));
        store(first + i, m);
        store(second + i, v);
      }
      if (const int left = int(p.size - i)) {
        vf m = load_some(first + i, left), v = load_some(second + i, left);
        const vf by = moved(load_some(gradient + i, left) * all(scale), m, v);
        store_some(value + i, load_some(value + i, left) - by, left);
        store_some(first + i, m, left);
        store_some(second + i, v, left);
      }
    } else if (first) {
      by_vectors(p.size, [&](int64_t i, auto at) {
        const vf m = at.get(first + i) * all(momentum) + at.get(gradient + i) * all(scale);
        at.put(first + i, m);
        at.put(value + i, at.get(value + i) - all(lr) * m);
      });
    } else {
      by_vectors(p.size, [&](int64_t i, auto at) {
        at.put(value + i, at.get(value + i) - all(lr) * (at.get(gradient + i) * all(scale)));
      });
    }
  }
  return true;
}

// What FPTT makes of the gradients before the inner update sees them; nothing without it.
struct Drawn {
  float* totals[3];
  Drawn(Arena& arena, const Step& step) {
    for (int i = 0; i < 3; i++) totals[i] = arena.take<float>(step.alpha ? step.parameters[i].size : 0);
  }
};

// One step of an update, FPTT or plain; whether it was made.
static bool update(const Step& step, const Drawn& drawn, const float* const gradients[3], bool ok) {
  if (!step.alpha) return step_by(step, gradients, ok);
  const vf alpha = all(float(step.alpha)), beta = all(float(step.beta)), ratio = all(float(step.beta / step.alpha));
  for (int i = 0; i < 3; i++) {
    const Parameter& p = step.parameters[i];
    by_vectors(p.size, [&](int64_t n, auto at) {
      const vf gap = at.get(p.value + n) - at.get(p.mean + n);
      at.put(drawn.totals[i] + n, at.get(gradients[i] + n) - at.get(p.lam + n) + gap * alpha);
    });
  }
  if (!step_by(step, drawn.totals, ok)) return false;
  for (int i = 0; i < 3; i++) {
    const Parameter& p = step.parameters[i];
    by_vectors(p.size, [&](int64_t n, auto at) {
      const vf mean = at.get(p.mean + n), gap = at.get(p.value + n) - mean, lam = at.get(p.lam + n) - gap * alpha;
      at.put(p.lam + n, lam);
      at.put(p.mean + n, mean + gap * beta - lam * ratio);
    });
  }
  return true;
}

}  // namespace KERNELS
