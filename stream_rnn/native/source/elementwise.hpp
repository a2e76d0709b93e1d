// Element-wise units with exact traces (stream_rnn/recurrence/elementwise.py, lru, rtu, elstm).
//
// The traces of a lane are K*Q rows of N numbers: all runs over units, VL at once. They are moved in
// place, since what comes out unsound is zeroed.
#pragma once
#include "abi.hpp"
#include "net.hpp"
#include "simd.hpp"

namespace KERNELS {

constexpr float LONGEST_DECAY = 100.0f, TINY = 1e-30f;  // stream_rnn/recurrence
constexpr float MOST_TRACES = 1e8f;  // EXPLODED of stream_rnn/credit/base.py, in float32
constexpr int TOGETHER = 4;          // lanes whose shares are added in one pass
constexpr int FEW_LANES = 4;         // for fewer, W is read row by row

struct UnitNet final : Net {
  const Plan& plan;
  const Elementwise& e;
  const int K, N, I, Q;
  const bool turns;        // one complex trace serves both weights of an input
  // per unit: lam = re + i im, as the parameters are now;  ELSTM: what its gates give c_tm1, in the gains
  float *re, *im, *decay, *phase, *gain, *gain_slope;
  float* columns;          // W (2N, I) as (I, 2N), where there are many lanes
  float *sums, *turned;    // gradient (Q, N), and that of the weights a quarter turn away (I, N)
  float *moved, *raw;      // (B, 2, N) each: lam s_tm1 and W x;  ELSTM: f and z, and c_tm1 in the first half
  float *inner;            // (2 N)
  float *x_padded;

  __attribute__((noinline)) UnitNet(Arena& arena, const Plan& plan_)
      : Net(state_size(plan_), state_size(plan_), state_size(plan_), 1), plan(plan_), e(plan_.elementwise),
        K(int(plan_.credit.K)), N(int(plan_.credit.N)), I(int(plan_.I)), Q(int(e.Q)),
        turns(e.units == LRU || e.units == RTU_LINEAR) {
    const size_t B = plan.credit.B;
    float** per_unit[] = {&re, &im, &decay, &phase, &gain, &gain_slope};
    for (float** each : per_unit) *each = arena.take<float>(N);
    columns = arena.take<float>(size_t(2) * N * (I + 2));
    sums = arena.take<float>(size_t(Q) * N);
    turned = arena.take<float>(size_t(I) * N);
    moved = arena.take<float>(B * 2 * N);
    raw = arena.take<float>(B * 2 * N);
    inner = arena.take<float>(2 * N);
    x_padded = arena.take<float>(size_t(I) + 8);
  }

  static int state_size(const Plan& plan) { return int(plan.credit.K * plan.credit.N); }
  static int width_of(const Plan& plan) { return state_size(plan); }

  void look() const override {
    const int U = e.units == ELSTM ? I + 2 : I;
    if (plan.credit.B >= FEW_LANES) transpose(plan.recurrent.parameters[0].value, 2 * N, U, columns);
    if (e.units == ELSTM) {
      const float* of_c = plan.recurrent.parameters[0].value + I;
      for (int n = 0; n < N; n++) {
        gain[n] = of_c[size_t(n) * U];
        gain_slope[n] = of_c[size_t(N + n) * U];
      }
      return;
    }
    const float* dynamics = plan.recurrent.parameters[1].value;
    vi far = {};
    by_vectors(N, [&](int n, auto at) {
      const vf d = exp_(at.get(dynamics + n)), angle = exp_(at.get(dynamics + N + n));
      const vf fade = d < all(LONGEST_DECAY) ? d : all(LONGEST_DECAY);
      at.put(decay + n, fade);
      at.put(phase + n, angle);
      far |= angle > all(LARGEST_ANGLE);
      vf sine, cosine;
      sincos_(angle, sine, cosine);
      const vf size = exp_(-fade);
      at.put(re + n, size * cosine);
      at.put(im + n, size * sine);
      if (e.units == LRU) {
        const vf log_gain = at.get(dynamics + 2 * N + n);
        far |= log_gain > all(LARGEST_EXPONENT);
        at.put(gain + n, exp_(log_gain));
      } else {
        const vf g = roots(-expm1_(all(-2.0f) * fade));
        at.put(gain + n, g);
        at.put(gain_slope + n, fade * exp_(all(-2.0f) * fade) / (g > all(TINY) ? g : all(TINY)));
      }
    });
    if (!any(far)) return;
    for (int n = 0; n < N; n++) {
      // infinite where `exp_` ends: such a unit has no finite state, and every event is refused
      if (dynamics[N + n] > LARGEST_EXPONENT) phase[n] = std::exp(dynamics[N + n]);
      if (e.units == LRU && dynamics[2 * N + n] > LARGEST_EXPONENT) gain[n] = std::exp(dynamics[2 * N + n]);
      const float size = exp_(-decay[n]);
      re[n] = size * std::cos(phase[n]);
      im[n] = size * std::sin(phase[n]);
    }
  }

  // W x (2N); with ELSTM also what c_tm1 and 1 give
  void read_in(const float* x, const float* s_tm1, float* __restrict out) const {
    const float* W = plan.recurrent.parameters[0].value;
    const int n = 2 * N;
    if (plan.credit.B >= FEW_LANES) {
      const int inputs = I, units = N;
      const float *column = columns, *of_c = columns + size_t(I) * n, *of_one = of_c + n;
      const bool gated = e.units == ELSTM;
      for (int half = 0; half < n; half += units)
        by_vectors(units, [&](int j, auto at) {
          vf sums = at.get(column + half + j) * all(x[0]);
          for (int i = 1; i < inputs; i++) sums += at.get(column + size_t(i) * n + half + j) * all(x[i]);
          if (gated) sums += at.get(of_c + half + j) * at.get(s_tm1 + j) + at.get(of_one + half + j);
          at.put(out + half + j, sums);
        });
      return;
    }
    std::memcpy(x_padded, x, sizeof(float) * I);
    std::memset(x_padded + I, 0, sizeof(float) * 8);
    const int U = e.units == ELSTM ? I + 2 : I;
    short_rows(W, n, U, I, x_padded, out);
    for (int j = 0; j < n && e.units == ELSTM; j++) {
      const float* w = W + size_t(j) * U + I;
      out[j] += w[0] * s_tm1[j < N ? j : j - N] + w[1];
    }
  }

  // s_t (S) of lane b, which is also what is read; keeps what the derivatives need
  const float* forward(int64_t b, const float* x, const float* s_tm1, float* __restrict s_t) const override {
    float *__restrict m = moved + b * 2 * N, *__restrict r = raw + b * 2 * N;
    if (e.units == ELSTM) {
      read_in(x, s_tm1, inner);
      by_vectors(N, [&](int n, auto at) {
        const vf f = logistic(at.get(inner + n)), z = tanh_(at.get(inner + N + n)), c = at.get(s_tm1 + n);
        at.put(m + n, f);
        at.put(m + N + n, z);
        at.put(r + n, c);
        at.put(s_t + n, z + f * (c - z));
      });
      return s_t;
    }
    read_in(x, s_tm1, r);
    const auto units = e.units;
    const float *re = this->re, *im = this->im, *gain = this->gain;
    by_vectors(N, [&, N = N](int n, auto at) {
      const vf c = at.get(re + n), s = at.get(im + n), g = at.get(gain + n);
      const vf s_0 = at.get(s_tm1 + n), s_1 = at.get(s_tm1 + N + n);
      const vf m_0 = c * s_0 - s * s_1, m_1 = s * s_0 + c * s_1;
      vf t_0 = m_0 + g * at.get(r + n), t_1 = m_1 + g * at.get(r + N + n);
      if (units == RTU_TANH) {
        t_0 = tanh_(t_0);
        t_1 = tanh_(t_1);
      } else if (units == RTU_RELU) {
        t_0 = t_0 <= 0 ? vf{} : t_0;  // NaN stays NaN
        t_1 = t_1 <= 0 ? vf{} : t_1;
      }
      at.put(m + n, m_0);
      at.put(m + N + n, m_1);
      at.put(s_t + n, t_0);
      at.put(s_t + N + n, t_1);
    });
    return s_t;
  }
  const float* ahead(int64_t b, const float* x, const float* s_tm1, float* s_t) const override {
    return forward(b, x, s_tm1, s_t);
  }

  // T <- J T + immediate for VL units from n on, `left` of them there; returns the sum of squares
  template <bool WHOLE>
  vf move_block(int64_t b, int n, int left, const float* x, const float* s_t, float* T) const {
    const int N = this->N, I = this->I;  // a store of a vector may change any member, says the compiler
    const bool turns = this->turns;
    const auto get = [left](const float* p) { return WHOLE ? load(p) : load_some(p, left); };
    const auto put = [left](float* p, vf v) { WHOLE ? store(p, v) : store_some(p, v, left); };
    const float *m = moved + b * 2 * N + n, *r = raw + b * 2 * N + n;
    vf squares = {};
    if (e.units == ELSTM) {
      const vf f = get(m), z = get(m + N), c = get(r), away = all(1.0f) - f;
      const vf drive[2] = {(c - z) * f * away, away * (all(1.0f) - z * z)};
      const vf J = f + drive[0] * get(gain + n) + drive[1] * get(gain_slope + n);
      float* row = T + n;
      for (int g = 0; g < 2; g++)
        for (int i = 0; i < I + 2; i++, row += N) {
          const vf u = i < I ? all(x[i]) : i == I ? c : all(1.0f);
          const vf t = J * get(row) + drive[g] * u;
          put(row, t);
          squares += t * t;
        }
      return squares;
    }
    const vf c = get(re + n), s = get(im + n), g = get(gain + n);
    const vf m_0 = get(m), m_1 = get(m + N), r_0 = get(r), r_1 = get(r + N);
    const vf fade = -get(decay + n), turn = get(phase + n);
    vf f_0 = all(1.0f), f_1 = f_0;
    if (e.units == RTU_TANH) {
      const vf h_0 = get(s_t + n), h_1 = get(s_t + N + n);
      f_0 -= h_0 * h_0;
      f_1 -= h_1 * h_1;
    } else if (e.units == RTU_RELU) {
      f_0 = get(s_t + n) > vf{} ? f_0 : vf{};
      f_1 = get(s_t + N + n) > vf{} ? f_1 : vf{};
    }
    const vf J_00 = f_0 * c, J_01 = -(f_0 * s), J_10 = f_1 * s, J_11 = f_1 * c;
    float *row = T + n, *other = T + size_t(Q) * N + n;
    const auto step = [&](vf now_0, vf now_1) {
      const vf a = get(row), o = get(other);
      const vf t_0 = J_00 * a + J_01 * o + now_0, t_1 = J_10 * a + J_11 * o + now_1;
      put(row, t_0);
      put(other, t_1);
      squares += t_0 * t_0 + t_1 * t_1;
      row += N;
      other += N;
    };
    const vf g_0 = f_0 * g, g_1 = f_1 * g;
    for (int i = 0; i < I; i++) step(g_0 * all(x[i]), vf{});
    for (int i = 0; i < I && !turns; i++) step(vf{}, g_1 * all(x[i]));
    if (e.units == LRU) {
      step(fade * m_0, fade * m_1);
      step(-(turn * m_1), turn * m_0);
      step(g * r_0, g * r_1);
    } else {
      const vf slope = get(gain_slope + n);
      step(f_0 * (slope * r_0 + fade * m_0), f_1 * (slope * r_1 + fade * m_1));
      step(-(f_0 * turn * m_1), f_1 * turn * m_0);
    }
    return squares;
  }

  // Linear units turn and shrink in every lane alike: the traces of some lanes in one pass, and their
  // shares in the gradient while these are in registers. Adds up the squares of each.
  template <int COUNT>
  void move_alike(const int64_t* lanes, const float* const* x, const float* q, vf* squares) const {
    const int N = this->N, I = this->I;
    const size_t half = size_t(Q) * N;
    float *const sums = this->sums, *const turned = this->turned;
    const bool is_lru = e.units == LRU;
    float* T_of[COUNT];
    const float *x_of[COUNT], *q_of[COUNT], *m_of[COUNT], *r_of[COUNT];
    for (int b = 0; b < COUNT; b++) {
      T_of[b] = e.influence + size_t(lanes[b]) * 2 * half;
      x_of[b] = x[lanes[b]];
      q_of[b] = q + lanes[b] * S;
      m_of[b] = moved + lanes[b] * 2 * N;
      r_of[b] = raw + lanes[b] * 2 * N;
    }
    const auto block = [&](int n, auto at) __attribute__((always_inline)) {
      const vf c = at.get(re + n), s = at.get(im + n), g = at.get(gain + n);
      vf q_0[COUNT], q_1[COUNT], size[COUNT] = {};
#pragma GCC unroll 4
      for (int b = 0; b < COUNT; b++) {
        q_0[b] = at.get(q_of[b] + n);
        q_1[b] = at.get(q_of[b] + N + n);
      }
      const auto step = [&](int i, bool turning, auto now) {
        const size_t row = size_t(i) * N + n;
        vf sum = at.get(sums + row), other = turning ? at.get(turned + row) : vf{};
#pragma GCC unroll 4
        for (int b = 0; b < COUNT; b++) {
          float* T = T_of[b] + row;
          const vf a = at.get(T), o = at.get(T + half);
          vf t_0 = c * a - s * o, t_1 = s * a + c * o;
          now(b, t_0, t_1);
          at.put(T, t_0);
          at.put(T + half, t_1);
          size[b] = fused(t_1, t_1, fused(t_0, t_0, size[b]));
          sum = fused(q_1[b], t_1, fused(q_0[b], t_0, sum));  // as `add_shares` does, to the bit
          other = fused(-q_0[b], t_1, fused(q_1[b], t_0, other));
        }
        at.put(sums + row, sum);
        if (turning) at.put(turned + row, other);
      };
      for (int i = 0; i < I; i++)
        step(i, true, [&](int b, vf& t_0, vf&) { t_0 += g * all(x_of[b][i]); });
      const vf fade = -at.get(decay + n), turn = at.get(phase + n);
      const vf slope = is_lru ? vf{} : at.get(gain_slope + n);
      step(I, false, [&](int b, vf& t_0, vf& t_1) {
        t_0 += slope * at.get(r_of[b] + n) + fade * at.get(m_of[b] + n);
        t_1 += slope * at.get(r_of[b] + N + n) + fade * at.get(m_of[b] + N + n);
      });
      step(I + 1, false, [&](int b, vf& t_0, vf& t_1) {
        t_0 -= turn * at.get(m_of[b] + N + n);
        t_1 += turn * at.get(m_of[b] + n);
      });
      if (is_lru)
        step(I + 2, false, [&](int b, vf& t_0, vf& t_1) {
          t_0 += g * at.get(r_of[b] + n);
          t_1 += g * at.get(r_of[b] + N + n);
        });
      for (int b = 0; b < COUNT; b++) squares[b] += size[b];
    };
    // not `by_vectors`: what it calls reads every pointer anew, as a store might have changed it
    int n = 0;
    for (; n + VL <= N; n += VL) block(n, Whole{});
    if (n < N) block(n, Rest{N - n});
  }

  // The shares of some lanes in the gradient, q^T T each, added up one after another.
  template <int COUNT>
  void add_shares(const float* const* q, const float* const* T) const {
    const int N = this->N, Q = this->Q, turning = turns ? I : 0;
    const size_t half = size_t(Q) * N;
    float *const sums = this->sums, *const turned = this->turned;
    const bool is_pair = K == 2;
    by_vectors(N, [&](int n, auto at) {
      vf q_0[COUNT], q_1[COUNT];
#pragma GCC unroll 4
      for (int b = 0; b < COUNT; b++) {
        q_0[b] = at.get(q[b] + n);
        q_1[b] = is_pair ? at.get(q[b] + N + n) : vf{};
      }
      for (int i = 0; i < Q; i++) {
        const size_t row = size_t(i) * N + n;
        vf sum = at.get(sums + row), other = i < turning ? at.get(turned + row) : vf{};
#pragma GCC unroll 4
        for (int b = 0; b < COUNT; b++) {
          const vf t_0 = at.get(T[b] + row);
          if (is_pair) {
            const vf t_1 = at.get(T[b] + half + row);
            sum = fused(q_1[b], t_1, fused(q_0[b], t_0, sum));
            other = fused(-q_0[b], t_1, fused(q_1[b], t_0, other));
          } else {
            sum = fused(q_0[b], t_0, sum);
          }
        }
        at.put(sums + row, sum);
        if (i < turning) at.put(turned + row, other);
      }
    });
  }

  // From (column, unit) to the order of the parameters.
  void hand_over() const {
    float* gradient = plan.recurrent.parameters[0].gradient;
    if (e.units == ELSTM) {
      const int U = I + 2;
      transpose(sums, U, N, gradient);
      transpose(sums + size_t(U) * N, U, N, gradient + size_t(U) * N);
      return;
    }
    const int at = turns ? I : 2 * I;
    transpose(sums, I, N, gradient);
    transpose(turns ? turned : sums + size_t(I) * N, I, N, gradient + size_t(I) * N);
    std::memcpy(plan.recurrent.parameters[1].gradient, sums + size_t(at) * N, sizeof(float) * (Q - at) * N);
  }

  // Exact RTRL of one tick: traces, health and gradient.
  void learn(const Tick& tick, const Live& lanes, const uint8_t* ready, const float* const* x, const float* s,
             const float* q) override {
    const Observation& o = plan.credit;
    std::memset(o.healthy, 1, o.B);
    std::memset(o.norm, 0, sizeof(double) * o.B);
    nothing_yet();
    if (!turns) {
      for (const int64_t b : lanes)
        if (ready[b]) judge(b, move(b, x[b], s + b * S), q);
      share(tick, lanes, ready, q);
    } else if (!learn_alike(lanes, ready, x, q)) {  // nothing of an unhealthy lane may stand in the gradient
      nothing_yet();
      share(tick, lanes, ready, q);
    }
    hand_over();
  }

  void nothing_yet() const {
    std::memset(sums, 0, sizeof(float) * Q * N);
    std::memset(turned, 0, sizeof(float) * I * N);
  }

  vf move(int64_t b, const float* x, const float* s_t) const {
    float* T = e.influence + size_t(b) * K * Q * N;
    const int whole = N / VL * VL, left = N - whole;
    vf squares = {};
    for (int n = 0; n < whole; n += VL) squares += move_block<true>(b, n, VL, x, s_t, T);
    if (left) {  // beyond the last unit there is nothing to count
      const vf end = move_block<false>(b, whole, left, x, s_t, T);
      for (int i = 0; i < left; i++) squares[i] += end[i];
    }
    return squares;
  }

  // Whether the lane's traces, of that many squares, are of use; restarts them if not.
  bool judge(int64_t b, vf squares, const float* q) const {
    const Observation& o = plan.credit;
    const float norm = std::sqrt(sum(squares)), size = std::sqrt(dot(q + b * S, q + b * S, S));
    o.norm[b] = norm;
    o.healthy[b] = norm <= MOST_TRACES && norm * size <= MOST_TRACES;
    if (!o.healthy[b]) std::memset(e.influence + size_t(b) * K * Q * N, 0, sizeof(float) * K * Q * N);
    return o.healthy[b];
  }

  // `move_alike` of all lanes, in their order; whether all are healthy.
  bool learn_alike(const Live& lanes, const uint8_t* ready, const float* const* x, const float* q) const {
    int64_t together[TOGETHER];
    int waiting = 0;
    bool healthy = true;
    for (const int64_t b : lanes) {
      if (!ready[b]) continue;
      together[waiting] = b;
      if (++waiting < TOGETHER) continue;
      waiting = 0;
      vf squares[TOGETHER] = {};
      move_alike<TOGETHER>(together, x, q, squares);
      for (int i = 0; i < TOGETHER; i++) healthy &= judge(together[i], squares[i], q);
    }
    for (int i = 0; i < waiting; i++) {
      vf squares = {};
      move_alike<1>(together + i, x, q, &squares);
      healthy &= judge(together[i], squares, q);
    }
    return healthy;
  }

  // The shares of the healthy lanes that are scored, in their order; of others q is zero.
  void share(const Tick& tick, const Live& lanes, const uint8_t* ready, const float* q) const {
    const float *q_of[TOGETHER], *T_of[TOGETHER];
    int waiting = 0;
    for (const int64_t b : lanes) {
      if (!ready[b] || !tick.scored[b] || !plan.credit.healthy[b]) continue;
      q_of[waiting] = q + b * S;
      T_of[waiting] = e.influence + size_t(b) * K * Q * N;
      if (++waiting < TOGETHER) continue;
      waiting = 0;
      add_shares<TOGETHER>(q_of, T_of);
    }
    for (int i = 0; i < waiting; i++) add_shares<1>(q_of + i, T_of + i);
  }
};

}  // namespace KERNELS
