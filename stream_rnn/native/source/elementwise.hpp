// Element-wise units with exact traces (stream_rnn/recurrence/elementwise.py, lru, rtu, elstm).
//
// The traces of a lane are K rows of N*Q numbers, taken as they lie: what a unit multiplies its own
// Q numbers with is spread out once, and everything else runs over whole rows. Spreading writes
// whole vectors in ascending order, beyond the end of each unit into the next one, which comes after.
#pragma once
#include "abi.hpp"
#include "simd.hpp"

namespace KERNELS {

constexpr float LONGEST_DECAY = 100.0f, TINY = 1e-30f;  // stream_rnn/recurrence
constexpr int PAD = VL > 8 ? VL : 8;
constexpr float MOST_TRACES = 1e8f;  // EXPLODED of stream_rnn/credit/base.py, in float32

struct UnitNet {
  const Plan& plan;
  const Elementwise& e;
  const int K, N, I, Q, S;
  const int row;           // N*Q
  // per unit: lam = size (re + i im), as the parameters are now
  float *re, *im, *decay, *phase, *gain, *gain_slope;
  float *J_re, *J_im;      // re and im spread over the Q columns
  float *slope[2];         // per lane: factor of a whole row (RTU), or J itself (ELSTM), spread out
  float *fresh[2];         // the new traces of a lane
  float *of_q[2];          // q, spread out
  float *sums[2];          // gradient, and that of the parameters a quarter turn away
  float *moved, *raw;      // (B, K, N) each: lam s_tm1 and W x;  ELSTM: f and z, c_tm1
  float *inner;            // (2 N)
  float *x_padded;

  UnitNet(Arena& arena, const Plan& plan_)
      : plan(plan_), e(plan_.elementwise), K(int(plan_.credit.K)), N(int(plan_.credit.N)),
        I(int(plan_.I)), Q(int(e.Q)), S(K * N), row(N * Q) {
    const size_t padded = size_t(row) + 2 * VL, B = plan.credit.B;
    float** per_unit[] = {&re, &im, &decay, &phase, &gain, &gain_slope};
    for (float** each : per_unit) *each = arena.take<float>(N);
    J_re = arena.take<float>(padded);
    J_im = arena.take<float>(padded);
    for (int i = 0; i < 2; i++) {
      slope[i] = arena.take<float>(padded);
      fresh[i] = arena.take<float>(padded);
      of_q[i] = arena.take<float>(padded);
      sums[i] = arena.take<float>(padded);
    }
    moved = arena.take<float>(B * 2 * N);
    raw = arena.take<float>(B * 2 * N);
    inner = arena.take<float>(2 * N);
    x_padded = arena.take<float>(size_t(I) + PAD);
  }

  int width() const { return S; }
  static int state_size(const Plan& plan) { return int(plan.credit.K * plan.credit.N); }
  static int width_of(const Plan& plan) { return state_size(plan); }

  void ahead(int64_t b, const float* x, const float* s_tm1, float* s_t) const { forward(b, x, s_tm1, s_t); }

  void spread(const float* value, float* out) const {
    for (int n = 0; n < N; n++) {
      const vf v = all(value[n]);
      for (int i = 0; i < Q; i += VL) store(out + n * Q + i, v);
    }
  }

  void pad(const float* x) const {
    std::memcpy(x_padded, x, sizeof(float) * I);
    std::memset(x_padded + I, 0, sizeof(float) * PAD);
  }

  // rows of `size` numbers of `from`, Q apart, side by side; `to` has room for VL more
  void gather(const float* from, int size, float* to) const {
    for (int n = 0; n < N; n++)
      for (int i = 0; i < size; i += VL) store(to + size_t(n) * size + i, load(from + n * Q + i));
  }

  // What follows from the parameters as they are: once a tick, for all lanes.
  void look() const {
    if (e.units == ELSTM) return;
    const float* dynamics = plan.recurrent.parameters[1].value;
    for (int n = 0; n < N; n++) {
      const float d = exp_(dynamics[n]);
      decay[n] = d < LONGEST_DECAY ? d : LONGEST_DECAY;
    }
    int far = 0;
    for (int n = 0; n < N; n++) {
      phase[n] = exp_(dynamics[N + n]);
      far |= phase[n] > LARGEST_ANGLE;
    }
    for (int n = 0; n < N; n++) sincos_(phase[n], im[n], re[n]);
    for (int n = 0; n < N && far; n++) {
      re[n] = std::cos(phase[n]);
      im[n] = std::sin(phase[n]);
    }
    for (int n = 0; n < N; n++) {
      const float size = exp_(-decay[n]);
      re[n] *= size;
      im[n] *= size;
    }
    if (e.units == LRU) {
      for (int n = 0; n < N; n++) gain[n] = exp_(dynamics[2 * N + n]);
    } else {
      for (int n = 0; n < N; n++) {
        gain[n] = std::sqrt(-expm1_(-2 * decay[n]));
        gain_slope[n] = decay[n] * exp_(-2 * decay[n]) / (gain[n] > TINY ? gain[n] : TINY);
      }
    }
  }

  // s_t (S) of lane b; keeps what the derivatives need
  void forward(int64_t b, const float* x, const float* s_tm1, float* s_t) const {
    const float* W = plan.recurrent.parameters[0].value;
    float *m = moved + b * 2 * N, *r = raw + b * 2 * N;
    pad(x);
    if (e.units == ELSTM) {
      short_rows(W, 2 * N, I + 2, I, x_padded, inner);
      for (int j = 0; j < 2 * N; j++) {
        const float* w = W + size_t(j) * (I + 2);
        inner[j] += w[I] * s_tm1[j < N ? j : j - N] + w[I + 1];
      }
      for (int n = 0; n < N; n++) {
        const float f = logistic(inner[n]), z = tanh_(inner[N + n]);
        m[n] = f;
        m[N + n] = z;
        r[n] = s_tm1[n];
        s_t[n] = z + f * (s_tm1[n] - z);
      }
      return;
    }
    short_rows(W, 2 * N, I, I, x_padded, r);
    for (int n = 0; n < N; n++) {
      m[n] = re[n] * s_tm1[n] - im[n] * s_tm1[N + n];
      m[N + n] = im[n] * s_tm1[n] + re[n] * s_tm1[N + n];
      s_t[n] = m[n] + gain[n] * r[n];
      s_t[N + n] = m[N + n] + gain[n] * r[N + n];
    }
    if (e.units == RTU_TANH)
      for (int j = 0; j < 2 * N; j++) s_t[j] = tanh_(s_t[j]);
    else if (e.units == RTU_RELU)
      for (int j = 0; j < 2 * N; j++) s_t[j] = s_t[j] > 0 ? s_t[j] : 0;
  }

  // The immediate derivatives of lane b, into `fresh`, and what the whole row is multiplied with.
  void immediate(int64_t b, const float* x, const float* s_t) const {
    const float *m = moved + b * 2 * N, *r = raw + b * 2 * N;
    pad(x);
    if (e.units == ELSTM) {
      const float *W = plan.recurrent.parameters[0].value, *f = m, *z = m + N, *c = r;
      for (int n = 0; n < N; n++) {
        const float away = 1 - f[n];
        const float d_f = (c[n] - z[n]) * f[n] * away, d_z = away * (1 - z[n] * z[n]);
        const float* w_f = W + size_t(n) * (I + 2) + I;
        inner[n] = f[n] + d_f * w_f[0] + d_z * w_f[size_t(N) * (I + 2)];
        float* out = fresh[0] + n * Q;
        for (int i = 0; i < I; i += VL) store(out + i, all(d_f) * load(x_padded + i));
        out[I] = d_f * c[n];
        out[I + 1] = d_f;
        out += I + 2;
        for (int i = 0; i < I; i += VL) store(out + i, all(d_z) * load(x_padded + i));
        out[I] = d_z * c[n];
        out[I + 1] = d_z;
      }
      spread(inner, slope[0]);
      return;
    }
    const bool linear = e.units == LRU || e.units == RTU_LINEAR;
    for (int n = 0; n < N; n++) {
      float *a = fresh[0] + n * Q, *o = fresh[1] + n * Q;
      const vf v = all(gain[n]);
      for (int i = 0; i < I; i += VL) {
        const vf gx = v * load(x_padded + i);
        if (linear) {
          store(a + i, gx);
          store(o + i, vf{});
        } else {
          store(a + i, gx);
          store(a + I + i, vf{});
          store(o + i, vf{});
        }
      }
      if (!linear)
        for (int i = 0; i < I; i += VL) store(o + I + i, v * load(x_padded + i));
      const int at = linear ? I : 2 * I;
      if (e.units == LRU) {
        a[at] = -decay[n] * m[n];
        o[at] = -decay[n] * m[N + n];
        a[at + 2] = gain[n] * r[n];
        o[at + 2] = gain[n] * r[N + n];
      } else {
        a[at] = gain_slope[n] * r[n] - decay[n] * m[n];
        o[at] = gain_slope[n] * r[N + n] - decay[n] * m[N + n];
      }
      a[at + 1] = -phase[n] * m[N + n];
      o[at + 1] = phase[n] * m[n];
    }
    if (linear) return;
    for (int k = 0; k < 2; k++) {
      const float* h = s_t + k * N;
      for (int n = 0; n < N; n++)
        inner[n] = e.units == RTU_TANH ? 1 - h[n] * h[n] : h[n] > 0 ? 1.0f : 0.0f;
      spread(inner, slope[k]);
    }
  }

  // J T + immediate, and its Euclidean norm
  float transport(const float* old) const {
    vf squares = {};
    float rest = 0;
    const int whole = row / VL * VL;
    if (K == 1) {
      float* f = fresh[0];
      for (int i = 0; i < whole; i += VL) {
        const vf v = load(f + i) + load(slope[0] + i) * load(old + i);
        store(f + i, v);
        squares += v * v;
      }
      for (int i = whole; i < row; i++) {
        f[i] += slope[0][i] * old[i];
        rest += f[i] * f[i];
      }
      return std::sqrt(sum(squares) + rest);
    }
    const bool linear = e.units == LRU || e.units == RTU_LINEAR;
    const float* other = old + row;
    for (int i = 0; i < whole; i += VL) {
      const vf a = load(old + i), b = load(other + i), c = load(J_re + i), s = load(J_im + i);
      vf f = load(fresh[0] + i) + (c * a - s * b), g = load(fresh[1] + i) + (s * a + c * b);
      if (!linear) {
        f *= load(slope[0] + i);
        g *= load(slope[1] + i);
      }
      store(fresh[0] + i, f);
      store(fresh[1] + i, g);
      squares += f * f + g * g;
    }
    for (int i = whole; i < row; i++) {
      float f = fresh[0][i] + (J_re[i] * old[i] - J_im[i] * other[i]);
      float g = fresh[1][i] + (J_im[i] * old[i] + J_re[i] * other[i]);
      if (!linear) {
        f *= slope[0][i];
        g *= slope[1][i];
      }
      fresh[0][i] = f;
      fresh[1][i] = g;
      rest += f * f + g * g;
    }
    return std::sqrt(sum(squares) + rest);
  }

  // One lane's share of the gradient: q^T T, and with q turned back a quarter.
  void add(const float* q) const {
    for (int k = 0; k < K; k++) spread(q + k * N, of_q[k]);
    const bool turns = e.units == LRU || e.units == RTU_LINEAR;
    for (int i = 0; i < row; i += VL) {  // padded: beyond the end nobody reads
      const vf a = load(of_q[0] + i), f = load(fresh[0] + i);
      if (K == 1) {
        store(sums[0] + i, load(sums[0] + i) + a * f);
        continue;
      }
      const vf b = load(of_q[1] + i), g = load(fresh[1] + i);
      store(sums[0] + i, load(sums[0] + i) + (a * f + b * g));
      if (turns) store(sums[1] + i, load(sums[1] + i) + (b * f - a * g));
    }
  }

  // From the order of the traces to that of the parameters, whose gradients have room for VL more.
  void hand_over() const {
    float* gradient = plan.recurrent.parameters[0].gradient;
    if (e.units == ELSTM) {
      gather(sums[0], I + 2, gradient);
      gather(sums[0] + I + 2, I + 2, gradient + size_t(N) * (I + 2));
      return;
    }
    const bool turns = e.units == LRU || e.units == RTU_LINEAR;
    const int at = turns ? I : 2 * I, P = Q - at;
    gather(sums[0], I, gradient);
    gather(turns ? sums[1] : sums[0] + I, I, gradient + size_t(N) * I);
    float* dynamics = plan.recurrent.parameters[1].gradient;
    for (int n = 0; n < N; n++)
      for (int p = 0; p < P; p++) dynamics[p * N + n] = sums[0][n * Q + at + p];
  }

  // Exact RTRL of one tick: traces, health and gradient; x (B, .) and states as in the forward pass.
  void learn(const Tick&, const uint8_t* ready, const float* const* x, const float* s, const float* q) const {
    const Observation& o = plan.credit;
    if (K == 2) {
      spread(re, J_re);
      spread(im, J_im);
    }
    for (int i = 0; i < 2; i++) std::memset(sums[i], 0, sizeof(float) * size_t(row));
    for (int64_t b = 0; b < o.B; b++) {
      o.healthy[b] = 1;
      o.norm[b] = 0;
      if (!ready[b]) continue;
      float* old = e.influence + size_t(b) * K * row;
      immediate(b, x[b], s + b * S);
      const float norm = transport(old), size = std::sqrt(dot(q + b * S, q + b * S, S));
      o.norm[b] = norm;
      o.healthy[b] = norm <= MOST_TRACES && norm * size <= MOST_TRACES;
      if (o.healthy[b]) {
        for (int k = 0; k < K; k++) std::memcpy(old + size_t(k) * row, fresh[k], sizeof(float) * row);
        if (size != 0) add(q + b * S);
      } else {
        std::memset(old, 0, sizeof(float) * K * row);
      }
    }
    hand_over();
  }
};

}  // namespace KERNELS
