// Everything that computes, compiled once for each instruction set (KERNELS names its namespace).
#include "exact.hpp"
#include "lanes.hpp"
#include "rates.hpp"
#include "tick.hpp"

namespace KERNELS {

int64_t work_bytes(const Observation* o) {
  const Sizes z(*o);
  if (o->rule == RTRL) return int64_t(Lanes<ExactWork, ExactShare>(*o, z, rtrl_lane).bytes());
  if (o->rule != TBPTT) return int64_t(Lanes<Work, Share>(*o, z, kf_lane).bytes());
  Arena arena(nullptr);
  WindowWork(arena, *o, z);
  return int64_t(arena.used());
}

template <class Kind>
static size_t work_of(Arena& arena, const Plan& plan) {
  TickWork(arena, plan, Kind::state_size(plan), Kind::width_of(plan));
  Kind(arena, plan);
  return arena.used();
}

int64_t plan_bytes(const Plan* plan) {
  Arena arena(nullptr);
  if (plan->layer.kind != NO_LAYER) return int64_t(work_of<StackNet>(arena, *plan));
  if (plan->elementwise.units != NO_UNITS) return int64_t(work_of<UnitNet>(arena, *plan));
  return int64_t(work_of<DenseNet>(arena, *plan)) + work_bytes(&plan->credit);
}

void observe(const Observation* o) {
  const Sizes z(*o);
  if (o->pays) std::memset(o->gradient, 0, sizeof(float) * z.Z * z.M);
  for (int64_t b = 0; b < o->B; b++) o->healthy[b] = 1;
  if (o->rule == TBPTT) {
    Arena arena(o->work);
    const WindowWork work(arena, *o, z);
    for (int64_t b = 0; b < o->B; b++)
      if (o->live[b]) keep_step(*o, z, b);
    for (int64_t b = 0; b < o->B && o->pays; b++)
      if (!is_square(*o, z, b)) pay(*o, z, work, b);
    return;
  }
  std::memset(o->norm, 0, sizeof(double) * o->B);  // of the last tick, in which others were idle
  if (o->rule == OK) std::memset(o->variance, 0, sizeof(double) * o->B * z.chunks);
  if (o->rule == RTRL) return Lanes<ExactWork, ExactShare>(*o, z, rtrl_lane).run();
  const auto ok = z.rank == 1 && o->chunks != ROW ? ok_one_lane : ok_lane;
  Lanes<Work, Share>(*o, z, o->rule == KF ? kf_lane : ok).run();
}

int64_t ticks(const Plan* plan, const Tick* at, int64_t n) {
  if (plan->layer.kind != NO_LAYER) return run_all_of<StackNet>(*plan, *at, n);
  return plan->elementwise.units == NO_UNITS ? run_all_of<DenseNet>(*plan, *at, n) : run_all_of<UnitNet>(*plan, *at, n);
}

}  // namespace KERNELS
