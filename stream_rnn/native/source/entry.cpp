// The C ABI: picks the best instruction set that was compiled and that this processor has.
#include "abi.hpp"

#define DECLARE(name)                           \
  namespace name {                              \
  int64_t work_bytes(const Observation*);       \
  void observe(const Observation*);             \
  int64_t plan_bytes(const Plan*);              \
  int64_t ticks(const Plan*, const Tick*, int64_t); \
  void multiply_often(int64_t, int64_t, int64_t, int64_t, const float*, const float*, float*); \
  void negate_often(int64_t, int64_t, float*);  \
  }
VARIANTS(DECLARE)

namespace {

struct Kernels {
  const char* name;
  int64_t (*work_bytes)(const Observation*);
  void (*observe)(const Observation*);
  int64_t (*plan_bytes)(const Plan*);
  int64_t (*ticks)(const Plan*, const Tick*, int64_t);
  void (*multiply_often)(int64_t, int64_t, int64_t, int64_t, const float*, const float*, float*);
  void (*negate_often)(int64_t, int64_t, float*);
};

#define ENTRY(variant)                                                                         \
  {#variant,       variant::work_bytes,     variant::observe,     variant::plan_bytes, \
   variant::ticks, variant::multiply_often, variant::negate_often},
const Kernels all[] = {VARIANTS(ENTRY)};  // best first
const int count = sizeof all / sizeof all[0];

bool runs_here(const char* name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (name[3] == '5')  // avx512
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (name[3] == '2')  // avx2
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return true;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// The number of variants, best first; which of them run on this processor.
EXPORT int64_t srn_variants() { return count; }
EXPORT const char* srn_variant_name(int64_t i) { return all[i].name; }
EXPORT int64_t srn_runs_here(int64_t i) { return runs_here(all[i].name); }

EXPORT int64_t srn_work_bytes(int64_t variant, const Observation* o) { return all[variant].work_bytes(o); }
EXPORT void srn_observe(int64_t variant, const Observation* o) { all[variant].observe(o); }

EXPORT int64_t srn_plan_bytes(int64_t variant, const Plan* plan) { return all[variant].plan_bytes(plan); }
EXPORT int64_t srn_ticks(int64_t variant, const Plan* plan, const Tick* at, int64_t n) {
  return all[variant].ticks(plan, at, n);
}

// For whoever measures this machine (rates.hpp).
EXPORT void srn_multiply_often(int64_t variant, int64_t times, int64_t rows, int64_t depth, int64_t panels,
                               const float* a, const float* b, float* out) {
  all[variant].multiply_often(times, rows, depth, panels, a, b, out);
}
EXPORT void srn_negate_often(int64_t variant, int64_t times, int64_t n, float* x) {
  all[variant].negate_often(times, n, x);
}
