// The recurrences of stream_rnn/features/scaler.py and stream_rnn/scores/numeric.py; those are the
// definition, line by line, and what runs where there is no library.
#include "columns.hpp"

#include <cfloat>
#include <cmath>

static_assert(FLT_EVAL_METHOD == 0, "doubles must be computed as doubles, as Python does");

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

double size_of(double value) { return __builtin_fabs(value); }
double larger(double a, double b) { return b > a ? b : a; }   // Python's max(a, b)
double smaller(double a, double b) { return b < a ? b : a; }  // Python's min(a, b)

bool is_absurd(const Scaler& s, double value, const Scaling& all) {
  return s.n >= all.warm && s.largest > 0 && size_of(value) > all.absurd * s.largest;
}

void learn(Scaler& s, double value, const Scaling& all) {
  s.largest = larger(s.largest, size_of(value));
  if (s.n >= all.warm && s.var > 0) {
    const double reach = 10 * s.std;
    value = smaller(larger(value, s.mean - reach), s.mean + reach);
  }
  s.n++;
  const double weight = 1.0 / double(s.n < all.memory ? s.n : all.memory);
  const double delta = value - s.mean;
  s.mean = s.mean + weight * delta;
  s.var = (1 - weight) * (s.var + weight * delta * delta);
  s.std = s.var > 0 ? __builtin_sqrt(s.var) : 1.0;
}

double within(double value, double clip) { return smaller(larger(value, -clip), clip); }

void count(const Encoding& e, int64_t issue, int64_t place) {
  if (!e.count[issue]++) e.first[issue] = place;
}

int64_t issue_of(const Encoding& e, const Scaler& s, int64_t t, int64_t f) {
  const int64_t issue = e.issue ? e.issue[f * e.stride + t] : 0;
  return issue ? issue : is_absurd(s, e.value[f * e.stride + t], e.scaling) ? int64_t(ABSURD) : 0;
}

void add(Sums& s, double point, double target, double loss, double keep) {
  const double error = point - target;
  s.n = s.n * keep + 1;
  s.loss = s.loss * keep + loss;
  s.absolute = s.absolute * keep + size_of(error);
  s.squared = s.squared * keep + error * error;
  s.size = s.size * keep + size_of(target);
  const double step = target - s.mean;
  s.mean = s.mean + step / s.n;
  s.spread = s.spread * keep + step * (target - s.mean);
}

double loss_of(const Judgment& j, double point, double std, double target) {
  if (j.loss == SQUARED_ERROR) return (point - target) * (point - target);
  if (j.loss == ABSOLUTE_ERROR) return size_of(point - target);
  if (j.loss == PINBALL) {
    const double error = target - point;
    return larger(j.tau * error, (j.tau - 1) * error);
  }
  if (std <= 0) return HUGE_VAL;
  const double z = (target - point) / std;
  return 0.5 * (z * z + j.log_2pi) + log(std);
}

void judge_pair(const Judgment& j, int64_t baseline, const double* guess, double divisor, int64_t t, bool counted) {
  const double *target = j.target + t * j.Q, *prediction = j.prediction + t * j.P, *losses = j.losses + t * j.Q;
  for (int64_t q = 0; q < j.Q; q++) {
    const int64_t at = baseline * j.Q + q;
    Pair& pair = j.pairs[at];
    const double point = divisor ? guess[q] / divisor : guess[q];
    double std = 1.0;
    if (j.loss == GAUSSIAN_NATS) {
      const double error = point - target[q];
      const bool enough = j.errors[at] >= j.errors_for_std;
      if (enough) std = __builtin_sqrt(j.squared_errors[at] / double(j.errors[at]));
      j.errors[at]++;
      j.squared_errors[at] += error * error;
      if (!enough) continue;
    }
    const double loss = loss_of(j, point, std > j.smallest_std ? std : j.smallest_std, target[q]);
    add(pair.recent, point, target[q], loss, j.fading);
    if (!counted) continue;
    add(pair.model, prediction[q], target[q], losses[q], 1.0);
    add(pair.baseline, point, target[q], loss, 1.0);
  }
}

bool judge(const Judgment& j, int64_t t, int64_t lane) {  // false: not scored
  const double *target = j.target + t * j.Q, *prediction = j.prediction + t * j.P;
  double* losses = j.losses + t * j.Q;
  for (int64_t q = 0; q < j.Q; q++)
    losses[q] = loss_of(j, prediction[q], j.loss == GAUSSIAN_NATS ? prediction[j.Q + q] : 1.0, target[q]);
  for (int64_t p = 0; p < j.P; p++)
    if (!(size_of(prediction[p]) < j.absurd)) return false;
  for (int64_t q = 0; q < j.Q; q++)
    if (!(size_of(losses[q]) < j.most)) return false;
  const bool counted = t >= j.before;
  for (int64_t q = 0; q < j.Q; q++) {
    add(j.recent[q], prediction[q], target[q], losses[q], j.fading);
    if (counted) add(j.model[q], prediction[q], target[q], losses[q], 1.0);
  }
  if (!j.n[lane]) return true;
  judge_pair(j, 0, j.newest + lane * j.Q, 0.0, t, counted);
  if (j.season && j.has_season[t]) judge_pair(j, 1, j.season + t * j.Q, 0.0, t, counted);
  judge_pair(j, j.N - 1, j.sums + lane * j.Q, double(j.n[lane]), t, counted);
  return true;
}

}  // namespace

// Returns how many events were taken; the one after them is refused and changed nothing.
EXPORT int64_t srn_encode(const Encoding* encoding) {
  const Encoding& e = *encoding;
  const double nothing = __builtin_nan("");
  for (int64_t t = 0; t < e.T; t++) {
    Scaler* scalers = e.scalers + (e.slot ? e.slot[t] : 0) * e.F;
    double* last = e.last + (e.lane ? e.lane[t] : 0) * e.F;
    double* x = e.x + t * e.width;
    for (int64_t f = 0; f < e.F; f++)
      if (issue_of(e, scalers[f], t, f) && (e.fill == REJECT || !scalers[f].n || e.strict[f])) return t;
    for (int64_t f = 0; f < e.F; f++) {
      Scaler& s = scalers[f];
      double value = e.value[f * e.stride + t];
      const int64_t issue = issue_of(e, s, t, f);
      if (issue) {
        count(e, issue, t * e.places + f);
        const double before = e.fill == PREVIOUS ? last[f] : nothing;
        value = before == before ? before * s.std + s.mean : s.mean;
      } else {
        learn(s, value, e.scaling);
      }
      double scaled = (value - s.mean) / s.std;
      if (size_of(scaled) > e.scaling.clip) {
        count(e, CLIPPED, t * e.places + e.clipped + f);
        scaled = __builtin_copysign(e.scaling.clip, scaled);
      }
      x[f] = scaled;
    }
    if (e.fill == PREVIOUS)
      for (int64_t f = 0; f < e.F; f++) last[f] = x[f];
  }
  return e.T;
}

// Likewise.
EXPORT int64_t srn_targets(const Targets* targets) {
  const Targets& a = *targets;
  for (int64_t t = 0; t < a.T; t++) {
    Scaler* scalers = a.scalers + (a.slot ? a.slot[t] : 0) * a.Q;
    const double* value = a.value + t * a.Q;
    double *mean = a.mean + t * a.Q, *std = a.std + t * a.Q, *y = a.y + t * a.Q;
    const bool known = a.known[t];
    bool taught = known;
    if (a.kind == OWN) {
      for (int64_t q = 0; q < a.Q && known; q++)
        if (is_absurd(scalers[q], value[q], a.scaling)) return t;
      taught = known && scalers[0].n > 0;
    } else {
      for (int64_t q = 0; q < a.Q && known; q++) learn(scalers[q], value[q], a.scaling);
    }
    for (int64_t q = 0; q < a.Q; q++) {
      mean[q] = scalers[q].mean;
      std[q] = scalers[q].std;
      y[q] = taught ? within((value[q] - mean[q]) / std[q], a.scaling.clip) : 0.0;
    }
    a.taught[t] = taught;
    if (a.kind != OWN) continue;
    for (int64_t q = 0; q < a.Q && known; q++) learn(scalers[q], value[q], a.scaling);
    if (!a.previous) continue;
    const int64_t lane = a.lane ? a.lane[t] : 0;
    double* previous = a.previous + lane * a.Q;
    for (int64_t q = 0; q < a.Q; q++) {
      const double scaled = within((previous[q] - mean[q]) / std[q], a.scaling.clip);
      a.x[t * a.width + q] = a.has_previous[lane] ? scaled : 0.0;
      if (known) previous[q] = value[q];
    }
    if (known) a.has_previous[lane] = 1;
  }
  return a.T;
}

// Sine and cosine of each cycle and its harmonics: rows of 2 * cycles * harmonics numbers, `width` apart.
EXPORT void srn_waves(const double* seconds, int64_t T, const double* lengths, int64_t cycles, int64_t harmonics,
                      double* out, int64_t width) {
  const double full_turn = 2 * 3.141592653589793;
  for (int64_t t = 0; t < T; t++) {
    double* row = out + t * width;
    for (int64_t c = 0; c < cycles; c++) {
      const double turn = full_turn * (seconds[t] / lengths[c]);
      for (int64_t h = 1; h <= harmonics; h++) {
        *row++ = sin(double(h) * turn);
        *row++ = cos(double(h) * turn);
      }
    }
  }
}

// Returns how many forecasts were not scored: not finite, or absurd.
EXPORT int64_t srn_judge(const Judgment* judgment) {
  const Judgment& j = *judgment;
  int64_t rejected = 0;
  for (int64_t t = 0; t < j.T; t++) {
    const int64_t lane = j.lane ? j.lane[t] : 0;
    j.scored[t] = j.due[t] && judge(j, t, lane);
    rejected += j.due[t] && !j.scored[t];
    if (!j.has_known[t]) continue;
    j.n[lane]++;
    for (int64_t q = 0; q < j.Q; q++) {
      const double known = j.known[t * j.Q + q];
      j.sums[lane * j.Q + q] += known;
      j.newest[lane * j.Q + q] = known;
    }
  }
  return rejected;
}
