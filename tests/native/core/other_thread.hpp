#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace memomalloc::testing {

// A second thread that stays: runs what it is given, while the caller waits.
class OtherThread {
 public:
  OtherThread() : thread_([this] { work(); }) {}

  ~OtherThread() {
    run(nullptr);
    thread_.join();
  }

  // Runs `task` there and returns when it is done. An empty one ends the thread.
  void run(std::function<void()> task) {
    std::unique_lock<std::mutex> lock(mutex_);
    task_ = std::move(task);
    has_task_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !has_task_; });
  }

 private:
  void work() {
    for (bool goes_on = true; goes_on;) {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return has_task_; });
      goes_on = task_ != nullptr;
      if (goes_on) task_();
      task_ = nullptr;
      has_task_ = false;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> task_;
  bool has_task_ = false;
  std::thread thread_;
};

}  // namespace memomalloc::testing
