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
constexpr int VECTORS = PANEL / VL;

inline vf load(const float* p) { return *reinterpret_cast<const vf*>(p); }
inline void store(float* p, vf v) { *reinterpret_cast<vf*>(p) = v; }
inline vf all(float x) { return vf{} + x; }

inline float sum(vf v) {  // halves added to halves: a fixed order
  float part[VL];
  store(part, v);
  for (int width = VL / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) part[i] += part[i + width];
  return part[0];
}

inline float dot(const float* a, const float* b, int n) {
  vf acc0 = {}, acc1 = {};
  int i = 0;
  for (; i + 2 * VL <= n; i += 2 * VL) {
    acc0 += load(a + i) * load(b + i);
    acc1 += load(a + i + VL) * load(b + i + VL);
  }
  for (; i + VL <= n; i += VL) acc0 += load(a + i) * load(b + i);
  float rest = 0;
  for (; i < n; i++) rest += a[i] * b[i];
  return sum(acc0 + acc1) + rest;
}

// exp to about 1 ulp within +-87, saturating beyond; NaN stays NaN (Cephes' polynomial)
inline float exp_(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves the rounded number in the bits
  const float shifted = x * 1.44269504088896341f + magic;
  const float n = shifted - magic;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = static_cast<int32_t>(static_cast<uint32_t>(bits + 127) << 23);
  float scale;
  std::memcpy(&scale, &bits, 4);
  return y * scale;
}

inline float logistic(float x) { return 1.0f / (1.0f + exp_(-x)); }

inline float tanh_(float x) {
  const float size = std::fabs(x), z = x * x;
  const float outer = 1.0f - 2.0f / (exp_(2.0f * size) + 1.0f);
  float y = -5.70498872745e-3f;
  y = y * z + 2.06390887954e-2f;
  y = y * z - 5.37397155531e-2f;
  y = y * z + 1.33314422036e-1f;
  y = y * z - 3.33332819422e-1f;
  const float inner = y * z * x + x;
  return size >= 0.625f ? std::copysign(outer, x) : inner;
}

// exp(x) - 1 without cancellation near 0
inline float expm1_(float x) {
  float y = 1.0f / 40320;
  y = y * x + 1.0f / 5040;
  y = y * x + 1.0f / 720;
  y = y * x + 1.0f / 120;
  y = y * x + 1.0f / 24;
  y = y * x + 1.0f / 6;
  y = y * x + 0.5f;
  y = y * x * x + x;
  return std::fabs(x) < 0.4f ? y : exp_(x) - 1.0f;
}

constexpr float LARGEST_ANGLE = 8192.0f;  // beyond it the reduction below loses digits

// sin and cos to about 1 ulp of 1 for |x| <= LARGEST_ANGLE (Cephes' polynomials)
inline void sincos_(float x, float& sine, float& cosine) {
  const float magic = 12582912.0f;
  const float shifted = x * 0.636619772367581343f + magic;
  const float n = shifted - magic;
  const float r = ((x - n * 1.5703125f) - n * 4.837512969970703e-4f) - n * 7.54978995489e-8f;
  const float z = r * r;
  float s = -1.9515295891e-4f;
  s = s * z + 8.3321608736e-3f;
  s = s * z - 1.6666654611e-1f;
  s = s * z * r + r;
  float c = 2.443315711809948e-5f;
  c = c * z - 1.388731625493765e-3f;
  c = c * z + 4.166664568298827e-2f;
  c = c * z * z - 0.5f * z + 1.0f;
  int32_t quarter;
  std::memcpy(&quarter, &shifted, 4);
  const bool swapped = quarter & 1;
  const float a = swapped ? c : s, b = swapped ? s : c;
  sine = quarter & 2 ? -a : a;
  cosine = (quarter + 1) & 2 ? -b : b;
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
