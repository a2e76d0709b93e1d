// SGD and Adam with clipping and a conditional commit (stream_rnn/update).
#pragma once
#include "abi.hpp"
#include "simd.hpp"

namespace KERNELS {

// beta^n; std::pow takes longer than all the rest of a small tick, and n is a whole number
inline double power(double beta, double n) {
  double result = 1;
  for (uint64_t left = uint64_t(n); left; left >>= 1, beta *= beta)
    if (left & 1) result *= beta;
  return result;
}

// Moves the parameters by their gradients where `ok` and these are finite; whether it did.
static bool update(const Step& step, const float* const gradients[2], bool ok) {
  double squares = 0;
  for (int i = 0; i < 2; i++) {
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
  const float lr = float(step.lr), momentum = float(step.momentum);
  for (int part = 0; part < 2; part++) {
    const Parameter& p = step.parameters[part];
    const float* __restrict gradient = gradients[part];
    float* __restrict value = p.value;
    float* __restrict first = p.first;
    float* __restrict second = p.second;
    if (step.kind == ADAM) {
      for (int64_t i = 0; i < p.size; i++) {
        const float g = gradient[i] * scale;
        first[i] += a * (g - first[i]);
        second[i] = second[i] * b + c * g * g;
        value[i] -= rate * (first[i] / (std::sqrt(second[i]) * by_root + eps));
      }
    } else if (first) {
      for (int64_t i = 0; i < p.size; i++) {
        first[i] = first[i] * momentum + gradient[i] * scale;
        value[i] -= lr * first[i];
      }
    } else {
      for (int64_t i = 0; i < p.size; i++) value[i] -= lr * (gradient[i] * scale);
    }
  }
  return true;
}

}  // namespace KERNELS
