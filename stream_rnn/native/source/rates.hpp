// How fast this machine is: the product that pushes the influence, alone, and memory, read and written.
#pragma once
#include "push.hpp"

namespace KERNELS {

// `times` times out = a b; a (rows, depth), b and out in panels of 32 columns, one behind the other.
void multiply_often(int64_t times, int64_t rows, int64_t depth, int64_t panels, const float* a,
                    const float* b, float* out) {
  for (int64_t t = 0; t < times; t++)
    for (int64_t p = 0; p < panels; p++)
      multiply(int(rows), int(depth), a, size_t(depth), b + p * depth * PANEL, out + p * rows * PANEL);
}

// `times` times the sign of n numbers: each is read and written.
void negate_often(int64_t times, int64_t n, float* x) {
  for (int64_t t = 0; t < times; t++) {
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
      for (int v = 0; v < 4; v++) store(x + i + v * VL, -load(x + i + v * VL));
    for (; i < n; i++) x[i] = -x[i];
    __asm__ volatile("" ::: "memory");  // or an even number of times would be none
  }
}

}  // namespace KERNELS
