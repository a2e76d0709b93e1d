// A few threads that share the lanes of a tick, started at the first tick that wants them.
//
// Who computes a lane does not matter: what lanes add up to is added by rows, in the order of the lanes.
// Each thread begins with the same part of them every time, which its own cache may still hold, and helps
// with the others' parts when it is done.
// The threads wait in turns of a few ten microseconds between two jobs, then they sleep. They take no
// signals, and the state of the caller's floating point (denormals!) goes with each job.
#pragma once
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>

namespace KERNELS {

constexpr int MOST_THREADS = 64;
constexpr int PATIENCE = 3000;  // looks at the next job before sleep, and at the last one before a yield

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

class Team {
 public:
  // Calls `work(context, i)` for i in 0..count, each once, on up to `threads` threads, the caller among
  // them. Alone where others are using the team, or where no thread can be had.
  static void share(int threads, int64_t count, void (*work)(void*, int64_t, int), void* context) {
    Team* team = threads > 1 && count > 1 ? borrow() : nullptr;
    const int most = int(std::min<int64_t>({threads, count, MOST_THREADS}));
    if (!team || team->grow(most - 1) == 0) {
      for (int64_t i = 0; i < count; i++) work(context, i, 0);
    } else {
      team->work_ = work;
      team->context_ = context;
      team->count_ = count;
      team->most_ = most;
      fegetenv(&team->floating_);
      for (int part = 0; part < most; part++)
        team->next_[part].lane.store(count * part / most, std::memory_order_relaxed);
      pthread_mutex_lock(&team->lock_);  // before whoever is falling asleep
      const uint64_t last = team->state_.load(std::memory_order_relaxed) / JOB;
      team->state_.store((last + 1) * JOB | OPEN, std::memory_order_release);
      if (team->asleep_) pthread_cond_broadcast(&team->wake_);
      pthread_mutex_unlock(&team->lock_);
      team->take(0);
      team->state_.fetch_and(~OPEN);  // who comes later is not waited for
      for (int looks = 0; team->state_.load(std::memory_order_acquire) & (OPEN - 1); looks++)
        looks < PATIENCE ? pause() : void(sched_yield());
    }
    if (team) team->taken_.clear(std::memory_order_release);
  }

 private:
  static constexpr uint64_t OPEN = 1 << 15, JOB = 1 << 16;

  struct alignas(64) Next {  // in a part of the lanes; on a cache line of its own
    std::atomic<int64_t> lane{0};
  };

  struct Helper {
    Team* team;
    int place;
    uint64_t done;  // the job before its first
  };

  // The team of this process, for one caller at a time; a child of a fork has none of the threads.
  static Team* borrow() {
    static std::atomic<Team*> known{nullptr};
    Team* team = known.load(std::memory_order_acquire);
    if (!team || team->process_ != getpid()) {
      Team* fresh = new (std::nothrow) Team;  // for as long as the process lives
      if (!fresh) return nullptr;
      if (known.compare_exchange_strong(team, fresh)) {
        team = fresh;
      } else {
        delete fresh;
      }
    }
    return team->taken_.test_and_set(std::memory_order_acquire) ? nullptr : team;
  }

  // How many helpers there are, after starting what is missing.
  int grow(int wanted) {
    sigset_t all, before;
    if (started_ >= wanted) return started_;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; started_ < wanted; started_++) {
      helper_[started_] = {this, started_ + 1, state_.load() / JOB};
      pthread_t thread;
      if (pthread_create(&thread, nullptr, live, &helper_[started_])) break;
#if defined(__linux__)
      pthread_setname_np(thread, "srn-lanes");
#endif
      pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started_;
  }

  void take(int place) {
    for (int k = 0; k < most_; k++) {
      const int part = (place + k) % most_;
      const int64_t end = count_ * (part + 1) / most_;
      for (int64_t i; (i = next_[part].lane.fetch_add(1, std::memory_order_relaxed)) < end;) work_(context_, i, place);
    }
  }

  static void* live(void* given) {
    const Helper& self = *static_cast<Helper*>(given);
    Team& team = *self.team;
    for (uint64_t done = self.done;;) {
      const auto job = [&] { return team.state_.load(std::memory_order_acquire) / JOB; };
      for (int looks = 0; looks < PATIENCE && job() == done; looks++) pause();
      if (job() == done) {
        pthread_mutex_lock(&team.lock_);
        team.asleep_++;
        while (job() == done) pthread_cond_wait(&team.wake_, &team.lock_);
        team.asleep_--;
        pthread_mutex_unlock(&team.lock_);
      }
      uint64_t state = team.state_.load(std::memory_order_acquire);
      while (state & OPEN)
        if (team.state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
          if (self.place < team.most_) {
            fesetenv(&team.floating_);
            team.take(self.place);
          }
          team.state_.fetch_sub(1, std::memory_order_release);
          break;
        }
      done = state / JOB;
    }
    return nullptr;
  }

  const pid_t process_ = getpid();
  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
  pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t wake_ = PTHREAD_COND_INITIALIZER;
  std::atomic<uint64_t> state_{0};  // number of the job, whether it is open, how many helpers are at it
  Next next_[MOST_THREADS];
  int asleep_ = 0, started_ = 0, most_ = 0;
  void (*work_)(void*, int64_t, int) = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0;
  fenv_t floating_;
  Helper helper_[MOST_THREADS];
};

}  // namespace KERNELS
