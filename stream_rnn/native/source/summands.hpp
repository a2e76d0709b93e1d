// What OK does with a panel of pushed columns: Gram sums of its summands, and their mixing.
//
// A panel is 32 numbers wide and holds whole entries of A, the R summands of one after the other. Where
// one vector instruction moves any number anywhere (16 floats), an entry's numbers are turned around
// within it; elsewhere shifted loads and products with a block diagonal matrix do the same.
#pragma once
#include <algorithm>

#include "push.hpp"

namespace KERNELS {

typedef double wide __attribute__((vector_size(8 * VL), aligned(8), may_alias));

// For each of both vectors and each turn d: where the number d places on in the same entry stands.
struct Turns {
#if VL == 16
  alignas(64) int32_t from[2][MOST][16];
#endif
  explicit Turns(int R) {
#if VL == 16
    for (int entry = 0; entry < PANEL && R > 1; entry += R)
      for (int d = 0; d < R; d++)
        for (int i = 0, j = d; i < R && entry + i < PANEL; i++, j = j + 1 < R ? j + 1 : 0) {
          const int column = entry + i;
          from[column / 16][d][column % 16] = entry + R <= PANEL ? entry + j : column;
        }
#else
    (void)R;
#endif
  }
};

#if VL == 16
// STRADDLES: entries do not end where vectors do
template <bool STRADDLES>
inline vf turned(vf x0, vf x1, int v, __m512i index) {
  if (!STRADDLES)
    return vf(_mm512_permutexvar_ps(index, __m512(v ? x1 : x0)));
  return vf(_mm512_permutex2var_ps(__m512(x0), index, __m512(x1)));
}

template <int most, bool STRADDLES>
static void add_products(int S, const float* x, const Turns& turns, vf (*acc)[MOST]) {
  vf sums[2][most] = {};
  __m512i index[2][most];
  for (int v = 0; v < 2; v++)
    for (int d = 0; d < most; d++) index[v][d] = _mm512_load_si512(turns.from[v][d]);
  for (int s = 0; s < S; s++, x += PANEL) {
    const vf x0 = load(x), x1 = load(x + 16);
#pragma GCC unroll 2
    for (int v = 0; v < 2; v++) {
      const vf here = v ? x1 : x0;
      sums[v][0] += here * here;
#pragma GCC unroll 16
      for (int d = 1; d < most; d++) sums[v][d] += here * turned<STRADDLES>(x0, x1, v, index[v][d]);
    }
  }
  for (int v = 0; v < 2; v++)
    for (int d = 0; d < most; d++) acc[v][d] = sums[v][d];
}

template <int R>
static void mix_turned(int S, const float* x, const Turns& turns, const float* coefficients, float* to,
                       size_t stride, int width) {
  vf c[2][R];
  __m512i index[2][R];
  for (int v = 0; v < 2; v++)
    for (int d = 0; d < R; d++) {
      c[v][d] = load(coefficients + d * PANEL + 16 * v);
      index[v][d] = _mm512_load_si512(turns.from[v][d]);
    }
  for (int s = 0; s < S; s++, x += PANEL, to += stride) {
    const vf x0 = load(x), x1 = load(x + 16);
    vf mixed[2] = {x0 * c[0][0], x1 * c[1][0]};
#pragma GCC unroll 16
    for (int d = 1; d < R; d++) {
      mixed[0] += turned<16 % R != 0>(x0, x1, 0, index[0][d]) * c[0][d];
      mixed[1] += turned<16 % R != 0>(x0, x1, 1, index[1][d]) * c[1][d];
    }
    if (width == PANEL) {
      store(to, mixed[0]);
      store(to + 16, mixed[1]);
    } else {
      float row[PANEL];
      store(row, mixed[0]);
      store(row + 16, mixed[1]);
      copy_row(row, to, width);
    }
  }
}
#endif

// Adds the products of each number with the one d places on to phases (d, 32).
static void add_gram(int S, int R, const float* panel, const Turns& turns, double* phases) {
#if VL == 16
  vf acc[2][MOST];
  switch (16 % R ? R / 2 + 1 : -R) {  // a turn by d and one by R - d give the same products
#define CASE(most) \
  case most: add_products<most, true>(S, panel, turns, acc); break;
    CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
#define CASE(rank) \
  case -rank: add_products<rank / 2 + 1, false>(S, panel, turns, acc); break;
    CASE(1) CASE(2) CASE(4) CASE(8) CASE(16)
#undef CASE
  }
  for (int v = 0; v < 2; v++)
    for (int d = 0; d <= R / 2; d++)
      *reinterpret_cast<wide*>(phases + d * PANEL + 16 * v) += __builtin_convertvector(acc[v][d], wide);
#else
  (void)turns;
  for (int first = 0; first < PANEL; first += VL)
    for (int d0 = 0; d0 < R; d0 += 8) {
      vf acc[8] = {};
      const float* x = panel + first;
      const int count = std::min(8, R - d0);
      if (count <= 3)
        for (int s = 0; s < S; s++, x += PANEL)
#pragma GCC unroll 3
          for (int d = 0; d < 3; d++) acc[d] += load(x) * load(x + d0 + d);
      else
        for (int s = 0; s < S; s++, x += PANEL)
#pragma GCC unroll 8
          for (int d = 0; d < 8; d++) acc[d] += load(x) * load(x + d0 + d);
      for (int d = 0; d < count; d++)
        *reinterpret_cast<wide*>(phases + (d0 + d) * PANEL + first) += __builtin_convertvector(acc[d], wide);
    }
#endif
}

// The upper triangle of a Gram matrix (R + 1, R + 1), but its last column: the sums over some entries.
static void spread_gram(int R, const double* phases, int first, int end, double* gram) {
  const int turns = VL == 16 ? R / 2 + 1 : R;
  for (int d = 0; d < turns; d++)
    for (int i = 0; i < R; i++) {
      const int j = VL == 16 ? (i + d) % R : i + d;
      if (j >= R) break;
      double s = 0;
      for (int e = first; e < end; e++) s += phases[d * PANEL + e * R + i];
      gram[std::min(i, j) * (R + 1) + std::max(i, j)] = s;
    }
}

typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));
typedef float sixteen __attribute__((vector_size(64), aligned(4), may_alias));

// Ranks of which an entry fills a vector exactly: it is mixed from broadcast numbers, without turning any.
inline bool mixes_entries(int R) { return (R == 8 && VL >= 8) || (R == 16 && VL == 16); }

// `entries` entries, one after another, in all S rows of a panel, times one matrix (R, R).
template <class V>
static void mix_rows(int S, int entries, const float* x, const float* mix, float* to, size_t stride) {
  constexpr int R = sizeof(V) / sizeof(float), AT = 4;  // at once, to hide latency
  V rows[R];
  for (int i = 0; i < R; i++) rows[i] = *reinterpret_cast<const V*>(mix + i * R);
  const auto mixed = [&](const float* from, size_t apart, float* out, size_t out_apart) {
    V sums[AT];
#pragma GCC unroll 4
    for (int j = 0; j < AT; j++) sums[j] = from[j * apart] * rows[0];
#pragma GCC unroll 16
    for (int i = 1; i < R; i++)
#pragma GCC unroll 4
      for (int j = 0; j < AT; j++) sums[j] += from[j * apart + i] * rows[i];
#pragma GCC unroll 4
    for (int j = 0; j < AT; j++) *reinterpret_cast<V*>(out + j * out_apart) = sums[j];
  };
  if (entries == AT) {  // row by row: what is written is written once
    for (int s = 0; s < S; s++) mixed(x + s * PANEL, R, to + s * stride, R);
    return;
  }
  for (int e = 0; e < entries; e++, x += R, to += R) {
    int s = 0;
    for (; s + AT <= S; s += AT) mixed(x + s * PANEL, PANEL, to + s * stride, stride);
    for (; s < S; s++) {
      V sum = x[s * PANEL] * rows[0];
      for (int i = 1; i < R; i++) sum += x[s * PANEL + i] * rows[i];
      *reinterpret_cast<V*>(to + s * stride) = sum;
    }
  }
}

inline void mix_entries(int S, int R, int entries, const float* x, const float* mix, float* to, size_t stride) {
  R == 8 ? mix_rows<eight>(S, entries, x, mix, to, stride) : mix_rows<sixteen>(S, entries, x, mix, to, stride);
}

inline bool turns_to_mix(int R) { return VL == 16 && R <= 8; }

// Writes the mixing matrix (R, R) of entry e into `blocks`: block diagonal, or turn by turn.
static void set_block(int R, int e, const float* mix, float* blocks) {
  for (int i = 0; i < R; i++)
    for (int k = 0; k < R; k++) {
      const int row = turns_to_mix(R) ? (i - k + R) % R : e * R + i;
      blocks[row * PANEL + e * R + k] = mix[i * R + k];
    }
}

// Rows of A' (`stride` apart, `width` wide) from those of a panel.
static void mix_panel(int S, int R, const float* x, const Turns& turns, const float* blocks, float* to,
                      size_t stride, int width) {
#if VL == 16
  switch (R) {  // 8 is mixed entry by entry
#define CASE(rank) \
  case rank: return mix_turned<rank>(S, x, turns, blocks, to, stride, width);
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
#undef CASE
  }
#endif
  (void)turns;
  for (int s = 0; s < S; s += 8, x += 8 * PANEL) {
    float mixed[8 * PANEL];
    for (int v = 0; v < PANEL; v += VL) {  // only the entries that vector v holds
      const int from = v / R * R, end = std::min(PANEL, (v + VL + R - 1) / R * R);
      vf acc[8] = {};
      for (int k = from; k < end; k++) {
        const vf block = load(blocks + k * PANEL + v);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) acc[i] += x[i * PANEL + k] * block;
      }
      for (int i = 0; i < 8; i++) store(mixed + i * PANEL + v, acc[i]);
    }
    for (int i = 0; i < std::min(8, S - s); i++) copy_row(mixed + i * PANEL, to + size_t(s + i) * stride, width);
  }
}

}  // namespace KERNELS
