// The losses of the linear read-out and their slopes (stream_rnn/head.py), one lane at a time.
#pragma once
#include "abi.hpp"
#include "simd.hpp"

namespace KERNELS {

constexpr float LOG_STD = 7.0f;  // stream_rnn/head.py, Gaussian

inline float clamped(float x) { return x < -LOG_STD ? -LOG_STD : x > LOG_STD ? LOG_STD : x; }

// The loss of outputs o (P) against y (Q), and its slope (P).
static float evaluate(const Plan& plan, const float* o, const float* y, float* slope) {
  const int P = int(plan.P), Q = int(plan.Q);
  float loss = 0;
  switch (plan.loss) {
    case SQUARED:
      for (int i = 0; i < P; i++) {
        const float error = o[i] - y[i];
        loss += error * error;
        slope[i] = error * float(2.0 / Q);
      }
      return loss / P;
    case QUANTILE:
      for (int i = 0; i < P; i++) {
        const float error = o[i] - y[i];
        const float side = error > 0 ? float(2 * (1 - plan.tau)) : error < 0 ? -float(2 * plan.tau) : 0.0f;
        loss += error * side;
        slope[i] = side / Q;
      }
      return loss / P;
    case GAUSSIAN:
      for (int i = 0; i < Q; i++) {
        const float log_std = clamped(o[Q + i]), precision = std::exp(-2 * log_std);
        const float error = o[i] - y[i], scaled = error * error * precision;
        loss += scaled / 2 + log_std + 0.91893853320467274f;
        slope[i] = error * precision / Q;
        slope[Q + i] = o[Q + i] == log_std ? (1 - scaled) / Q : 0.0f;
      }
      return loss / Q;
    case CROSS_ENTROPY: {
      float largest = o[0], total = 0;
      for (int i = 1; i < P; i++) largest = o[i] > largest ? o[i] : largest;
      for (int i = 0; i < P; i++) total += std::exp(o[i] - largest);
      const float log_total = std::log(total);
      for (int i = 0; i < P; i++) {
        const float log_p = o[i] - largest - log_total;
        const bool chosen = float(i) == y[0];
        if (chosen) loss = -log_p;
        slope[i] = std::exp(log_p) - (chosen ? 1.0f : 0.0f);
      }
      return loss;
    }
    default:  // BERNOULLI
      for (int i = 0; i < P; i++) {
        const float x = o[i], tail = std::log1p(std::exp(-std::fabs(x)));
        loss += (x > 0 ? x : 0.0f) + tail - x * y[i];
        slope[i] = (1 / (1 + std::exp(-x)) - y[i]) / Q;
      }
      return loss / P;
  }
}

// Of a likelihood: the mean over the C classes of -log(p) / C, and its slope times `share` on top of `slope`.
static float add_undecided(const Plan& plan, const float* o, float share, float* slope) {
  const int P = int(plan.P), Q = int(plan.Q);
  float loss = 0;
  if (plan.loss == BERNOULLI) {
    for (int i = 0; i < P; i++) {
      const float x = o[i], tail = std::log1p(std::exp(-std::fabs(x)));
      loss += (x > 0 ? x : 0.0f) + tail - x / 2;
      slope[i] += share * (1 / (1 + std::exp(-x)) - 0.5f) / (2 * Q);
    }
    return loss / P / 2;
  }
  float largest = o[0], total = 0;
  for (int i = 1; i < P; i++) largest = o[i] > largest ? o[i] : largest;
  for (int i = 0; i < P; i++) total += std::exp(o[i] - largest);
  const float log_total = std::log(total), even = 1.0f / P;
  for (int i = 0; i < P; i++) {
    const float log_p = o[i] - largest - log_total;
    loss -= log_p;
    slope[i] += share * (std::exp(log_p) - even) / P;
  }
  return loss / P / P;
}

inline bool is_likelihood(const Plan& plan) { return plan.loss == CROSS_ENTROPY || plan.loss == BERNOULLI; }

// As `evaluate`, the loss times a weight in 0..1; what that leaves of a likelihood goes to no preference.
static float evaluate_weighted(const Plan& plan, const float* o, const float* y, float weight, float* slope) {
  const float loss = evaluate(plan, o, y, slope) * weight;
  for (int i = 0; i < plan.P; i++) slope[i] *= weight;
  return is_likelihood(plan) ? loss + (1 - weight) * add_undecided(plan, o, 1 - weight, slope) : loss;
}

// What is published of outputs o (P), in place.
static void publish(const Plan& plan, float* o) {
  const int P = int(plan.P), Q = int(plan.Q);
  if (plan.loss == GAUSSIAN) {
    for (int i = Q; i < P; i++) o[i] = std::exp(clamped(o[i]));
  } else if (plan.loss == BERNOULLI) {
    for (int i = 0; i < P; i++) o[i] = 1 / (1 + std::exp(-o[i]));
  } else if (plan.loss == CROSS_ENTROPY) {
    float largest = o[0], total = 0;
    for (int i = 1; i < P; i++) largest = o[i] > largest ? o[i] : largest;
    for (int i = 0; i < P; i++) total += o[i] = std::exp(o[i] - largest);
    for (int i = 0; i < P; i++) o[i] /= total;
  }
}

}  // namespace KERNELS
