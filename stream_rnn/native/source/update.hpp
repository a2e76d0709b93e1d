// SGD and Adam with clipping and a conditional commit (stream_rnn/update).
#pragma once
#include "abi.hpp"
#include "simd.hpp"

namespace KERNELS {

// Moves the parameter by its gradient where `ok` and the gradient is finite; whether it did.
static bool update(const Step& step, const float* __restrict gradient, bool ok) {
  const int64_t size = step.size;
  double squares = 0;
  for (int64_t from = 0; from < size; from += 4096)
    squares += dot(gradient + from, gradient + from, int(size - from < 4096 ? size - from : 4096));
  const float norm = float(std::sqrt(squares));
  *step.norm = norm;
  if (!(ok && norm < INFINITY)) return false;
  const float scale = step.clip > 0 ? float(step.clip / (norm > step.clip ? norm : step.clip)) : 1.0f;
  float* __restrict parameter = step.parameter;
  float* __restrict first = step.first;
  float* __restrict second = step.second;
  if (step.kind == SGD) {
    const float lr = float(step.lr), momentum = float(step.momentum);
    if (first)
      for (int64_t i = 0; i < size; i++) {
        first[i] = first[i] * momentum + gradient[i] * scale;
        parameter[i] -= lr * first[i];
      }
    else
      for (int64_t i = 0; i < size; i++) parameter[i] -= lr * (gradient[i] * scale);
    return true;
  }
  const double n = *step.count += 1;
  const float rate = float(step.lr / (1 - std::pow(step.beta1, n)));
  const float root = float(std::sqrt(1 - std::pow(step.beta2, n)));
  const float a = float(1 - step.beta1), b = float(step.beta2), c = float(1 - step.beta2);
  const float eps = float(step.eps), by_root = 1 / root;
  for (int64_t i = 0; i < size; i++) {
    const float g = gradient[i] * scale;
    first[i] += a * (g - first[i]);
    second[i] = second[i] * b + c * g * g;
    parameter[i] -= rate * (first[i] / (std::sqrt(second[i]) * by_root + eps));
  }
  return true;
}

}  // namespace KERNELS
