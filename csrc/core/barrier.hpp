#pragma once

namespace memomalloc {

// Makes every thread of the process pass a full memory barrier: what was written before is seen by whoever
// sees something that is written after.
void barrier_on_all_threads() noexcept;

}  // namespace memomalloc
