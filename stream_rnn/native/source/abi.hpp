// The structures that cross the C ABI; stream_rnn/native/loading.py mirrors them field by field.
//
// Axes: B lanes, I inputs, P outputs, Q targets, K state blocks, G gates, N units, S = K*N, Z = G*N,
// M = I+N+1, T slots of a window, R rank, C chunks, F = N+I+1. All arrays are row-major and
// contiguous unless a stride is given. Nothing is allocated, kept or freed by the library.
#pragma once
#include <cstdint>

extern "C" {

enum Rule : int64_t { KF = 0, OK = 1, TBPTT = 2, RTRL = 3 };
enum Chunks : int64_t { JOINT = 0, GATE = 1, ROW = 2 };
enum CellKind : int64_t { TANH = 0, GRU = 1, LSTM = 2, RHN = 3 };
enum LossKind : int64_t { SQUARED = 0, QUANTILE = 1, GAUSSIAN = 2, CROSS_ENTROPY = 3, BERNOULLI = 4 };
enum UpdateKind : int64_t { SGD = 0, ADAM = 1, OBGD = 2 };
enum Units : int64_t { NO_UNITS = 0, LRU = 1, RTU_LINEAR = 2, RTU_TANH = 3, RTU_RELU = 4, ELSTM = 5 };

// One tick of a credit rule. What the rule keeps comes first, then the tick, then the results.
struct Observation {
  int64_t rule, B, K, G, N, M;
  int64_t rank, chunks;    // OK
  int64_t window, every;   // TBPTT: T; ticks between two payments
  int64_t pays;            // whether this tick pays what is owed
  float* u;                // KF (B, M);  OK (B, C, M, R);  TBPTT (B, T, M)
  float* A;                // KF (B, S, Z);  OK (B, g, S, L, R);  RTRL (B, S, Z, M)
  float* J_h;              // TBPTT (B, T, S, N)
  float* carries;          // TBPTT (B, T, K, K, N)
  float* drives;           // TBPTT (B, T, K, G, N)
  float* owed;             // TBPTT (B, T, S)
  int64_t* newest;         // TBPTT (B)
  uint8_t* begins;         // TBPTT (B) or null: over whose next step nothing flows back
  const float* W_h;        // (Z, N), rows W_stride apart
  int64_t W_stride;
  const float* drive;      // (B, K, G, N)
  const float* carry;      // (B, K, K, N)
  const float* input;      // (B, M)
  const float* q;          // (B, S)
  const uint8_t* live;     // (B)
  const float* signs;      // KF (B, 2);  OK (B, C, R+1)
  float* gradient;         // (Z, M)
  uint8_t* healthy;        // (B)
  double* norm;            // (B); 0 of idle lanes
  double* variance;        // OK (B, C), likewise
  char* work;              // work_bytes(...) bytes, aligned to 64
  int64_t threads;         // that may share the lanes; the results are the same bits
};

struct Parameter {
  int64_t size;            // numbers in it; 0: there is none
  float* value;
  float* first;            // SGD: velocity (or null);  ADAM: m
  float* second;           // ADAM: v
  float* gradient;         // of the recurrence; null for the read-out, whose own is in the work space
  float *mean, *lam;       // FPTT: of the values, what they are drawn to; null without
};

struct Step {              // an update of up to three parameters
  int64_t kind;
  double lr, clip;         // clip 0: no limit; of the gradients together
  double momentum;         // SGD
  double beta1, beta2, eps;  // ADAM
  double kappa;            // OBGD
  double alpha, beta;      // FPTT around one of them; alpha 0: without
  Parameter parameters[3];
  double* count;           // ADAM
  float* norm;             // scalar: norm of the last gradients
};

// Units that see no other unit's state, Q parameters each; parameters of LRU and RTU: W (2N, I) and
// the dynamics (3 or 2, N); of ELSTM: W (2, N, I+2).
struct Elementwise {
  int64_t units, Q;        // units: NO_UNITS where the recurrence is dense
  float* influence;        // (B, K, Q, N)
};

enum LayerKind : int64_t { NO_LAYER = 0, LAYER_TANH = 1, LAYER_RELU = 2 };

struct Layer {             // without recurrence, above element-wise units
  int64_t kind, N;
  int64_t W;               // which parameter is its own: (N, width of the units + 1)
};

struct LeastSquares {      // a read-out that owns its update
  double forgetting, prior, reach;
  double* C;               // (F, F), exactly symmetric; null: the read-out learns by gradients
  double* size;            // (P)
};

// A learner whose parts are all shipped ones: what does not change from tick to tick.
struct Plan {
  Observation credit;      // drive, carry, input, q, live, signs are filled in by the tick;
                           // element-wise: B, K, N, gradient, healthy and norm alone
  Elementwise elementwise;
  Layer layer;
  LeastSquares squares;
  int64_t cell, loss, I, P, Q, horizon;
  int64_t blind;           // the read-out reads zeros in place of the inputs
  double tau;
  float* s;                // (B, S)
  float* ahead;            // (B, S)
  float* waiting;          // (B, max(horizon, 1), I)
  int64_t* count;          // (B)
  uint8_t* owed;           // (B)
  const int64_t* fixed;    // (n_fixed, 2): where runs of structural zeros in W begin, and how long they are
  int64_t n_fixed;
  Step recurrent, readout;
  char* work;              // plan_bytes(...) bytes, aligned to 64
};

struct Tick {              // or the first of several, whose rows follow
  const float* x;          // (B, I)
  const float* y;          // (B, Q)
  const uint8_t* live;     // (B)
  const uint8_t* scored;   // (B)
  const float* weight;     // (B) of the losses, 0..1, or null: 1 everywhere
  const float* signs;
  int64_t n_signs;         // of a tick
  int64_t frozen;
  int64_t peeks;           // only what would be predicted: nothing moves
  int64_t pays;            // whether this tick has a gradient for the recurrence
  int64_t slot;            // which row of the following, one row a tick and zero, receives the outcome
  float* prediction;       // (., B, P)
  float* loss;             // (., B)
  uint8_t *learned, *rejected, *restarted;  // (., B)
  uint8_t* updated;        // (.)
};

}
