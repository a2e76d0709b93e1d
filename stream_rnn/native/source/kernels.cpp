// Everything that computes, compiled once for each instruction set (KERNELS names its namespace).
#include "tick.hpp"

namespace KERNELS {

int64_t work_bytes(const Observation* o) {
  Arena arena(nullptr);
  const Sizes z(*o);
  if (o->rule == TBPTT)
    WindowWork(arena, *o, z);
  else
    Work(arena, z);
  return int64_t(arena.used());
}

int64_t plan_bytes(const Plan* plan) {
  Arena arena(nullptr);
  if (plan->elementwise.units != NO_UNITS) {
    TickWork(arena, *plan, UnitNet::state_size(*plan), UnitNet::width_of(*plan));
    UnitNet(arena, *plan);
    return int64_t(arena.used());
  }
  TickWork(arena, *plan, DenseNet::state_size(*plan), DenseNet::width_of(*plan));
  DenseNet(arena, *plan);
  return int64_t(arena.used()) + work_bytes(&plan->credit);
}

void observe(const Observation* o) {
  const Sizes z(*o);
  Arena arena(o->work);
  if (o->pays) std::memset(o->gradient, 0, sizeof(float) * z.Z * z.M);
  for (int64_t b = 0; b < o->B; b++) o->healthy[b] = 1;
  if (o->rule == TBPTT) {
    const WindowWork work(arena, *o, z);
    for (int64_t b = 0; b < o->B; b++)
      if (o->live[b]) keep_step(*o, z, b);
    for (int64_t b = 0; b < o->B && o->pays; b++) pay(*o, z, work, b);
    return;
  }
  const Work work(arena, z);
  for (int64_t b = 0; b < o->B; b++) {
    if (!o->live[b]) continue;
    if (o->rule == KF)
      kf_lane(*o, z, work, b);
    else
      ok_lane(*o, z, work, b);
  }
}

int64_t ticks(const Plan* plan, const Tick* at, int64_t n) {
  return plan->elementwise.units == NO_UNITS ? run_all<DenseNet>(*plan, *at, n) : run_all<UnitNet>(*plan, *at, n);
}

}  // namespace KERNELS
