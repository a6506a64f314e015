#include "planner/budget.hpp"

#include <algorithm>
#include <utility>

namespace memomalloc::planner {
namespace {

constexpr std::chrono::milliseconds kPollInterval{50};
constexpr double kLongestLimit_s = 1e9;  // about thirty years; keeps the deadline inside the clock's range

std::chrono::nanoseconds to_duration(double seconds) {
  const double bounded_s = std::clamp(seconds, 0.0, kLongestLimit_s);
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(bounded_s));
}

}  // namespace

Budget::Budget(double time_limit_s, Poll poll)
    : start_(Clock::now()),
      deadline_(start_ + to_duration(time_limit_s)),
      next_poll_(start_ + kPollInterval),
      poll_(std::move(poll)) {}

Budget Budget::slice(double share) {
  Budget part(remaining_s() * share, nullptr);
  part.parent_ = this;
  return part;
}

bool Budget::spent() {
  const Clock::time_point now = Clock::now();
  Budget* root = this;
  while (root->parent_ != nullptr) root = root->parent_;
  if (now >= root->next_poll_) root->poll_now(now);
  return root->cancelled_ || now >= deadline_;
}

void Budget::poll_now(Clock::time_point now) {
  next_poll_ = now + kPollInterval;
  if (poll_ && !poll_(best_height_)) cancelled_ = true;
}

double Budget::elapsed_s() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

double Budget::remaining_s() const {
  return std::max(0.0, std::chrono::duration<double>(deadline_ - Clock::now()).count());
}

void Budget::found(int64_t height) {
  Budget* root = this;
  while (root->parent_ != nullptr) root = root->parent_;
  if (root->best_height_ < 0 || height < root->best_height_) root->best_height_ = height;
}

}  // namespace memomalloc::planner
