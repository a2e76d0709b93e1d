// Vectors of VL floats, and exp, tanh and the logistic function in forms that vectorize.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace KERNELS {

constexpr int PANEL = 32;  // columns that are pushed together
constexpr int MOST = 17;   // rank + 1 at most
typedef float vf __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * VL), aligned(4), may_alias));
constexpr int VECTORS = PANEL / VL;

inline vf load(const float* p) { return *reinterpret_cast<const vf*>(p); }
inline void store(float* p, vf v) { *reinterpret_cast<vf*>(p) = v; }
inline vf all(float x) { return x - vf{}; }  // x + 0 would be an operation: it makes 0 of -0

// a b + c. Said, not left to the compiler, which makes one operation or two of it as the code around it
// happens to be: sums of several lanes are the same bits however these are grouped.
inline vf fused(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return vf(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
#elif defined(__FMA__)
  return vf(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
#else
  return a * b + c;
#endif
}

// As many bytes of doubles.
constexpr int DL = VL / 2;
typedef double dv __attribute__((vector_size(8 * DL), aligned(8), may_alias));
typedef float hf __attribute__((vector_size(4 * DL), aligned(4), may_alias));
inline dv load(const double* p) { return *reinterpret_cast<const dv*>(p); }
inline void store(double* p, dv v) { *reinterpret_cast<dv*>(p) = v; }
inline dv as_doubles(const float* p) { return __builtin_convertvector(*reinterpret_cast<const hf*>(p), dv); }

inline double sum(dv v) {
#if defined(__AVX512F__)
  const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(__m512d(v)), _mm512_extractf64x4_pd(__m512d(v), 1));
#elif defined(__AVX2__)
  const __m256d four = __m256d(v);
#else
  return v[0] + v[1];
#endif
#if defined(__AVX2__)
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
#endif
}

inline float sum(vf v) {  // halves added to halves: a fixed order
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(__m512(v)), _mm512_extractf32x8_ps(__m512(v), 1));
#else
  const __m256 half = __m256(v);
#endif
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  float part[VL];
  store(part, v);
  for (int width = VL / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) part[i] += part[i + width];
  return part[0];
#endif
}

// Up to VL numbers, as a vector that ends in zeros; and back.
inline vf load_some(const float* p, int n) {
#if defined(__AVX512F__)
  return vf(_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p));
#elif defined(__AVX2__)
  static const int32_t mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return vf(_mm256_maskload_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask + 8 - n))));
#else
  float part[VL] = {};
  std::memcpy(part, p, sizeof(float) * n);
  return load(part);
#endif
}
inline void store_some(float* p, vf v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), __m512(v));
#else
  float part[VL];
  store(part, v);
  std::memcpy(p, part, sizeof(float) * n);
#endif
}

// How a vector of a row is read and written: all of it, or what is left at the end.
struct Whole {
  vf get(const float* p) const { return load(p); }
  void put(float* p, vf v) const { store(p, v); }
};
struct Rest {
  int left;
  vf get(const float* p) const { return load_some(p, left); }
  void put(float* p, vf v) const { store_some(p, v, left); }
};

// Calls `each(i, Whole or Rest)` for the vectors of a row of n numbers.
template <class Int, class Each>
inline void by_vectors(Int n, const Each& each) {
  Int i = 0;
  for (; i + VL <= n; i += VL) each(i, Whole{});
  if (i < n) each(i, Rest{int(n - i)});
}

// y += a x
inline void add_times(float a, const float* x, float* y, int n) {
  by_vectors(n, [&](int i, auto at) { at.put(y + i, a * at.get(x + i) + at.get(y + i)); });
}

// Some dozens of numbers, faster than a call of memcpy.
inline void copy(float* __restrict to, const float* __restrict from, int n) {
  by_vectors(n, [&](int i, auto at) { at.put(to + i, at.get(from + i)); });
}

// The sums of four vectors, one after the other in `to`.
inline void sum_four(const vf* v, float* to) {
#if defined(__AVX2__)
  __m256 half[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
#if defined(__AVX512F__)
    half[i] = _mm256_add_ps(_mm512_castps512_ps256(__m512(v[i])), _mm512_extractf32x8_ps(__m512(v[i]), 1));
#else
    half[i] = __m256(v[i]);
#endif
  const __m256 c = _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]), _mm256_hadd_ps(half[2], half[3]));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1)));
#else
  for (int i = 0; i < 4; i++) to[i] = sum(v[i]);
#endif
}

inline float dot(const float* a, const float* b, int n) {
  vf acc0 = {}, acc1 = {};
  int i = 0;
  for (; i + 2 * VL <= n; i += 2 * VL) {
    acc0 += load(a + i) * load(b + i);
    acc1 += load(a + i + VL) * load(b + i + VL);
  }
  for (; i + VL <= n; i += VL) acc0 += load(a + i) * load(b + i);
  if (i < n) acc1 += load_some(a + i, n - i) * load_some(b + i, n - i);
  return sum(acc0 + acc1);
}

// The same in double: what cancels later must not have been rounded to floats.
inline double wide_dot(const float* a, const float* b, int n) {
  dv acc[2] = {};
  int i = 0;
  for (; i + 2 * DL <= n; i += 2 * DL)
    for (int j = 0; j < 2; j++) acc[j] += as_doubles(a + i + j * DL) * as_doubles(b + i + j * DL);
  double rest = 0;
  for (; i < n; i++) rest += double(a[i]) * b[i];
  return sum(acc[0] + acc[1]) + rest;
}

inline bool any(vi mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(__m512i(mask)) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256(__m256i(mask), __m256i(mask));
#else
  int32_t bits = 0;
  for (int l = 0; l < VL; l++) bits |= mask[l];
  return bits != 0;
#endif
}

// Whether all are within +-limit; NaN is not.
inline bool within(const float* x, int n, float limit) {
  vi strange = {};
  by_vectors(n, [&](int i, auto at) {
    const vf v = at.get(x + i);
    strange |= ~((v <= all(limit)) & (v >= all(-limit)));
  });
  return !any(strange);
}

// The square root of v >= 0, and 1/v of v > 0, to about 1 ulp.
inline vf roots(vf v) {
#if defined(__AVX512F__)
  const vf y = vf(_mm512_maskz_rsqrt14_ps(_mm512_cmp_ps_mask(__m512(v), _mm512_setzero_ps(), _CMP_GT_OQ), __m512(v)));
  const vf r = v * y;
  return r + all(0.5f) * y * (v - r * r);
#elif defined(__AVX2__)
  return vf(_mm256_sqrt_ps(__m256(v)));
#else
  for (int i = 0; i < VL; i++) v[i] = std::sqrt(v[i]);
  return v;
#endif
}
inline vf inverse(vf v) {
#if defined(__AVX512F__)
  const vf y = vf(_mm512_rcp14_ps(__m512(v)));
  return y + y * (all(1.0f) - v * y);
#else
  return all(1.0f) / v;
#endif
}

// W x for `rows` rows of W (I numbers, `stride` apart) where I is small. `x` goes on with zeros, up
// to a multiple of 8.
inline void short_rows(const float* W, int rows, int stride, int I, const float* x, float* out) {
  int row = 0;
#if defined(__AVX2__)
  const int last = (I - 1) / 8 * 8;
  alignas(32) int32_t bits[8];
  for (int i = 0; i < 8; i++) bits[i] = last + i < I ? -1 : 0;
  const __m256i mask = _mm256_load_si256(reinterpret_cast<const __m256i*>(bits));
  for (; row + 4 <= rows; row += 4) {
    const float* w = W + size_t(row) * stride;
    __m256 sums[4];
    const __m256 end = _mm256_loadu_ps(x + last);
    for (int k = 0; k < 4; k++) sums[k] = _mm256_mul_ps(_mm256_maskload_ps(w + k * stride + last, mask), end);
    for (int i = 0; i < last; i += 8) {
      const __m256 xs = _mm256_loadu_ps(x + i);
      for (int k = 0; k < 4; k++) sums[k] = _mm256_fmadd_ps(_mm256_loadu_ps(w + k * stride + i), xs, sums[k]);
    }
    const __m256 a = _mm256_hadd_ps(sums[0], sums[1]), b = _mm256_hadd_ps(sums[2], sums[3]);
    const __m256 c = _mm256_hadd_ps(a, b);
    _mm_storeu_ps(out + row, _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1)));
  }
#endif
  for (; row < rows; row++) {
    float sum = 0;
    for (int i = 0; i < I; i++) sum += W[size_t(row) * stride + i] * x[i];
    out[row] = sum;
  }
}

// (rows, columns) -> (columns, rows), of which a row starts every `from_stride` and `to_stride` numbers
inline void transpose(const float* from, size_t from_stride, int rows, int columns, float* to, size_t to_stride) {
  int r = 0;
#if defined(__AVX2__)
  for (; r + 8 <= rows; r += 8) {
    int c = 0;
    for (; c + 8 <= columns; c += 8) {
      __m256 a[8], b[8];
      for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(from + (r + i) * from_stride + c);
      for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
      }
      for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
          a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
          a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0xEE);
        }
      for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + (c + i) * to_stride + r, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(to + (c + i + 4) * to_stride + r, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
      }
    }
    for (; c < columns; c++)
      for (int i = 0; i < 8; i++) to[c * to_stride + r + i] = from[(r + i) * from_stride + c];
  }
#endif
  for (; r < rows; r++)
    for (int c = 0; c < columns; c++) to[c * to_stride + r] = from[r * from_stride + c];
}

inline void transpose(const float* from, int rows, int columns, float* to) {
  transpose(from, columns, rows, columns, to, rows);
}

constexpr float LARGEST_EXPONENT = 88.0f;

// exp to about 1 ulp within +-87, saturating beyond; NaN stays NaN (Cephes' polynomial)
inline vf exp_(vf x) {
  x = x > all(LARGEST_EXPONENT) ? all(LARGEST_EXPONENT) : x;
  x = x < all(-87.0f) ? all(-87.0f) : x;
  const vf magic = all(12582912.0f);  // 1.5 * 2^23: adding it leaves the rounded number in the bits
  const vf shifted = x * all(1.44269504088896341f) + magic;
  const vf n = shifted - magic;
  const vf r = (x - n * all(0.693359375f)) + n * all(2.12194440e-4f);
  vf y = all(1.9875691500e-4f);
  y = y * r + all(1.3981999507e-3f);
  y = y * r + all(8.3334519073e-3f);
  y = y * r + all(4.1665795894e-2f);
  y = y * r + all(1.6666665459e-1f);
  y = y * r + all(5.0000001201e-1f);
  y = y * (r * r) + r + all(1.0f);
  const vi bits = (vi(shifted) + 127) << 23;
  return y * vf(bits);
}

inline vf logistic(vf x) { return inverse(all(1.0f) + exp_(-x)); }

inline vf tanh_(vf x) {
  const vf size = x < vf{} ? -x : x, z = x * x;
  const vf far = all(1.0f) - all(2.0f) * inverse(exp_(size + size) + all(1.0f));
  const vf outer = x < vf{} ? -far : far;
  vf y = all(-5.70498872745e-3f);
  y = y * z + all(2.06390887954e-2f);
  y = y * z - all(5.37397155531e-2f);
  y = y * z + all(1.33314422036e-1f);
  y = y * z - all(3.33332819422e-1f);
  const vf inner = y * z * x + x;
  return size >= all(0.625f) ? outer : inner;
}

inline float exp_(float x) { return exp_(all(x))[0]; }

// exp(x) - 1 without cancellation near 0
inline vf expm1_(vf x) {
  vf y = all(1.0f / 40320);
  y = y * x + all(1.0f / 5040);
  y = y * x + all(1.0f / 720);
  y = y * x + all(1.0f / 120);
  y = y * x + all(1.0f / 24);
  y = y * x + all(1.0f / 6);
  y = y * x + all(0.5f);
  y = y * x * x + x;
  return (x < all(0.4f)) & (x > all(-0.4f)) ? y : exp_(x) - all(1.0f);
}

constexpr float LARGEST_ANGLE = 8192.0f;  // beyond it the reduction below loses digits

// sin and cos to about 1 ulp of 1 for |x| <= LARGEST_ANGLE (Cephes' polynomials)
inline void sincos_(vf x, vf& sine, vf& cosine) {
  const vf magic = all(12582912.0f);
  const vf shifted = x * all(0.636619772367581343f) + magic;
  const vf n = shifted - magic;
  const vf r = ((x - n * all(1.5703125f)) - n * all(4.837512969970703e-4f)) - n * all(7.54978995489e-8f);
  const vf z = r * r;
  vf s = all(-1.9515295891e-4f);
  s = s * z + all(8.3321608736e-3f);
  s = s * z - all(1.6666654611e-1f);
  s = s * z * r + r;
  vf c = all(2.443315711809948e-5f);
  c = c * z - all(1.388731625493765e-3f);
  c = c * z + all(4.166664568298827e-2f);
  c = c * z * z - all(0.5f) * z + all(1.0f);
  const vi quarter = vi(shifted);
  const vi swapped = (quarter & 1) != 0;
  const vf a = swapped ? c : s, b = swapped ? s : c;
  sine = (quarter & 2) != 0 ? -a : a;
  cosine = ((quarter + 1) & 2) != 0 ? -b : b;
}

// Takes pieces of the caller's work space, or counts them where there is none.
class Arena {
 public:
  explicit Arena(char* start) : start_(start) {}
  template <class T>
  T* take(size_t n) {
    char* place = start_ ? start_ + used_ : nullptr;
    used_ += (n * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(place);
  }
  size_t used() const { return used_; }
  char* rest() const { return start_ + used_; }

 private:
  char* start_;
  size_t used_ = 0;
};

}  // namespace KERNELS
