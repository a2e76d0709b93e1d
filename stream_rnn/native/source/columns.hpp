// Features and scores of a run of events, column by column; stream_rnn/native/columns.py mirrors the
// structures field by field.
//
// Every number is what Python's own arithmetic gives, bit for bit: the same operations on doubles in
// the same order, no fused multiply-add, no library function but those that Python calls (built with
// flags of its own: build.py, EXACT). max and min are Python's, which keep the first of two equals.
//
// Axes: T events, F fields, Q targets, P predicted numbers, S scales (lanes, or one for all), L lanes
// of the run, N baselines. Arrays are row-major and contiguous; nothing is kept or freed.
#pragma once
#include <cstdint>

extern "C" {

struct Scaler {             // features/scaler.py
  int64_t n;
  double mean, var, std, largest;
};

struct Scaling {            // what all scales of a run share
  int64_t memory, warm;
  double absurd;            // times the largest so far: refused
  double clip;
};

enum Fill : int64_t { REJECT = 0, PREVIOUS = 1, MEAN = 2 };
enum Issue : int64_t { CLIPPED = 0, MISSING = 1, WRONG_TYPE = 2, NON_FINITE = 3, ABSURD = 4, ISSUES = 5 };

struct Encoding {           // numeric fields -> standardized columns of x
  int64_t T, F, stride, width;  // stride: events in a column; width: numbers in a row of x, of which
                            // the first F are written
  Scaling scaling;
  int64_t fill;
  int64_t places, clipped;  // of an issue within an event, for the order in which they are counted
  Scaler* scalers;          // (S, F)
  const int64_t* slot;      // (T): which scale; null: the first
  const int64_t* lane;      // (T): which lane of the run; null: the first
  const uint8_t* strict;    // (F): a value out of proportion refuses the event whatever `fill` says
  const double* value;      // (F, stride)
  const uint8_t* issue;     // (F, stride): what is wrong with a value, 0 for nothing; null: nothing at all
  double* last;             // (L, F): the newest standardized value, NaN for none; PREVIOUS only
  double* x;                // (T, width)
  int64_t* count;           // (ISSUES)
  int64_t* first;           // (ISSUES): place of the first one
};

enum TargetKind : int64_t { LEVEL = 0, CHANGE = 1, OWN = 2 };

struct Targets {            // targets -> what the learner is taught, and the scales it was taught in
  int64_t T, Q, kind, width;
  Scaling scaling;
  Scaler* scalers;          // (S, Q)
  const int64_t* slot;      // (T); null: the first
  const int64_t* lane;      // (T); null: the first
  const double* value;      // (T, Q): the level or the change
  const uint8_t* known;     // (T): whether there is one
  double* mean;             // (T, Q)
  double* std;              // (T, Q)
  double* y;                // (T, Q)
  uint8_t* taught;          // (T)
  double* previous;         // OWN: (L, Q); null: not an input
  uint8_t* has_previous;    // (L)
  double* x;                // OWN: (T, width), from the column of the first previous target on
};

struct Sums {               // scores/sums.py
  double n, loss, absolute, squared, size, mean, spread;
};

struct Pair {               // the model and a baseline over the same events, and the baseline fading
  Sums model, baseline, recent;
};

enum LossKind : int64_t { SQUARED_ERROR = 0, ABSOLUTE_ERROR = 1, PINBALL = 2, GAUSSIAN_NATS = 3 };

struct Judgment {           // forecasts that fell due, their targets, and the baselines' forecasts
  int64_t T, Q, P, N, loss;
  double tau, fading, absurd, most;  // most: of a loss
  double smallest_std, log_2pi;
  int64_t errors_for_std, before;    // before: targets that are still left out of the cumulative sums
  Sums* model;              // (Q)
  Sums* recent;             // (Q)
  Pair* pairs;              // (N, Q): persistence, the season if N is 3, the mean
  int64_t* errors;          // (N, Q)
  double* squared_errors;   // (N, Q)
  const int64_t* lane;      // (T); null: the first
  int64_t* n;               // (L): targets in `sums`
  double* sums;             // (L, Q)
  double* newest;           // (L, Q): what persistence says next, where n > 0
  const double* prediction; // (T, P)
  const uint8_t* due;       // (T)
  const double* target;     // (T, Q)
  const double* known;      // (T, Q): the target that becomes known with this one
  const uint8_t* has_known; // (T)
  const double* season;     // (T, Q): the seasonal forecast; null: there is none
  const uint8_t* has_season;
  double* losses;           // (T, Q)
  uint8_t* scored;          // (T)
};

}
