// How long a search may go on.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

namespace memomalloc::planner {

// A wall-clock limit and a way to be cancelled. Used by one thread.
class Budget {
 public:
  // Told the best height so far (-1 while there is none); false cancels the search.
  using Poll = std::function<bool(int64_t best_height)>;

  Budget(double time_limit_s, Poll poll);

  // A budget that ends with this one, after `share` of what is left of it at the latest. Borrows this one.
  Budget slice(double share);

  // True once the time is over or the search was cancelled. Reads the clock: call it every thousandth step or
  // so.
  bool spent();

  bool cancelled() const { return parent_ != nullptr ? parent_->cancelled() : cancelled_; }
  double elapsed_s() const;
  double remaining_s() const;

  // Tells the next poll how good the best plan is.
  void found(int64_t height);

 private:
  using Clock = std::chrono::steady_clock;

  void poll_now(Clock::time_point now);

  Clock::time_point start_;
  Clock::time_point deadline_;
  Clock::time_point next_poll_;
  Poll poll_;
  Budget* parent_ = nullptr;
  int64_t best_height_ = -1;
  bool cancelled_ = false;
};

// A budget whose clock is read after every so many steps only. Borrows it.
class PacedBudget {
 public:
  PacedBudget(Budget& budget, int64_t steps_per_clock) : budget_(budget), steps_per_clock_(steps_per_clock) {}

  // Counts so many more steps. True if that made the clock be read, and the budget is spent.
  bool spent_after(int64_t steps) {
    steps_ += steps;
    if (steps_ < steps_per_clock_) return false;
    steps_ = 0;
    return budget_.spent();
  }

 private:
  Budget& budget_;
  int64_t steps_per_clock_;
  int64_t steps_ = 0;  // since the clock was read
};

}  // namespace memomalloc::planner
