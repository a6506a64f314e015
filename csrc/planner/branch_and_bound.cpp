#include "planner/branch_and_bound.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <tuple>

#include "planner/prepare.hpp"

namespace memomalloc::planner {
namespace {

// About a millisecond.
constexpr int64_t kWorkPerClock = 500'000;
// Records of 24 bytes.
constexpr size_t kMaxTrail = 1'000'000;
// For each buffer and as a constant, between two nodes: floors that are raised more often creep.
constexpr int64_t kMaxRaisesPerBuffer = 16;
constexpr int64_t kMaxRaises = 1000;
// The floor of what is placed: above every offset, with space to add a size.
constexpr int64_t kOutOfReach = std::numeric_limits<int64_t>::max() / 2;
constexpr double kFailureGrowth = 1.001;
constexpr double kFailureLimit = 1e100;
// Lets sections without failures be told apart by their number of choices.
constexpr double kUntriedFailures = 1e-3;

}  // namespace

BranchAndBound::BranchAndBound(const PreparedProblem& problem) : problem_(problem) {
  find_neighbours();
  find_twins();
  failures_.assign(problem.loads.size(), 0);
}

int64_t BranchAndBound::memory_of(const PreparedProblem& problem) {
  const std::vector<int32_t> born_before = num_born_before(problem);
  int64_t num_pairs = 0;
  for (int32_t i = 0; i < problem.num_buffers; ++i) {
    num_pairs += born_before[problem.ends[i]] - 1 - i;
  }
  constexpr int64_t kBytesPerAlive = sizeof(int32_t) + sizeof(Counts);
  constexpr int64_t kBytesPerPair = 2 * sizeof(int32_t);
  return kBytesPerAlive * num_in_sections(problem) + kBytesPerPair * num_pairs;
}

void BranchAndBound::find_neighbours() {
  const int32_t n = problem_.num_buffers;
  first_in_section_.assign(problem_.loads.size() + 1, 0);
  for (int32_t i = 0; i < n; ++i) {
    for (int32_t s = problem_.starts[i]; s < problem_.ends[i]; ++s) ++first_in_section_[s + 1];
  }
  std::partial_sum(first_in_section_.begin(), first_in_section_.end(), first_in_section_.begin());
  in_section_.resize(first_in_section_.back());
  std::vector<int32_t> next(first_in_section_.begin(), first_in_section_.end() - 1);
  for (int32_t i = 0; i < n; ++i) {
    for (int32_t s = problem_.starts[i]; s < problem_.ends[i]; ++s) in_section_[next[s]++] = i;
  }

  // Buffers are ordered by start: the neighbours that start no earlier follow each other.
  const auto for_each_pair = [&](auto visit) {
    for (int32_t i = 0; i < n; ++i) {
      for (int32_t j = i + 1; j < n && problem_.starts[j] < problem_.ends[i]; ++j) visit(i, j);
    }
  };
  first_neighbour_.assign(problem_.sizes.size() + 1, 0);
  for_each_pair([&](int32_t i, int32_t j) {
    ++first_neighbour_[i + 1];
    ++first_neighbour_[j + 1];
  });
  std::partial_sum(first_neighbour_.begin(), first_neighbour_.end(), first_neighbour_.begin());
  neighbours_.resize(first_neighbour_.back());
  next.assign(first_neighbour_.begin(), first_neighbour_.end() - 1);
  for_each_pair([&](int32_t i, int32_t j) {
    neighbours_[next[i]++] = j;
    neighbours_[next[j]++] = i;
  });
}

void BranchAndBound::find_twins() {
  const auto content = [&](int32_t i) {
    return std::make_tuple(problem_.starts[i], problem_.ends[i], problem_.sizes[i], problem_.alignment(i));
  };
  std::vector<int32_t> free_buffers;
  for (int32_t i = 0; i < problem_.num_buffers; ++i) {
    if (problem_.pin(i) == kFree) free_buffers.push_back(i);
  }
  std::stable_sort(free_buffers.begin(), free_buffers.end(),
                   [&](int32_t a, int32_t b) { return content(a) < content(b); });
  next_twin_.assign(problem_.sizes.size(), -1);
  for (size_t i = 1; i < free_buffers.size(); ++i) {
    const int32_t buffer = free_buffers[i - 1];
    if (content(buffer) == content(free_buffers[i])) next_twin_[buffer] = free_buffers[i];
  }
}

bool BranchAndBound::is_unplaced(int32_t buffer) const { return floors_[buffer] < kOutOfReach; }

Verdict BranchAndBound::search(int64_t capacity, BranchOn branch_on, const std::vector<int32_t>& ranks,
                               int64_t dead_end_limit, Budget& budget) {
  branch_on_ = branch_on;
  ranks_ = &ranks;
  dead_end_limit_ = dead_end_limit;
  num_nodes_ = 0;
  num_placed_ = most_placed_ = 0;
  budget_ = &budget;
  work_ = num_raises_ = 0;
  next_clock_ = kWorkPerClock;
  max_raises_ = kMaxRaises + kMaxRaisesPerBuffer * problem_.num_buffers;
  stopped_ = false;
  Verdict verdict = Verdict::kNone;
  if (start(capacity)) verdict = solve_pieces({0, problem_.num_sections}, 0, problem_.num_sections);
  if (stopped_ && verdict == Verdict::kNone) verdict = Verdict::kUnknown;
  if (verdict == Verdict::kFits) {
    placement_.offsets = offsets_;
    placement_.height = 0;
    for (size_t i = 0; i < offsets_.size(); ++i) {
      placement_.height = std::max(placement_.height, offsets_[i] + problem_.sizes[i]);
    }
  }
  return verdict;
}

// Nothing is placed; what follows from that alone is worked out.
bool BranchAndBound::start(int64_t capacity) {
  const size_t n = problem_.sizes.size();
  trail_.clear();
  mergeable_ = 0;
  raise_of_.assign(n, 0);
  saved_counts_.clear();
  queue_.clear();
  queued_.assign(problem_.loads.size(), 0);
  unsupported_.clear();
  watched_.assign(n, -1);
  floors_.assign(n, 0);
  supports_.assign(n, 0);
  offsets_.assign(n, 0);
  spanning_.assign(problem_.loads.size() + 1, 0);
  sections_.resize(problem_.loads.size());
  for (size_t s = 0; s < sections_.size(); ++s) {
    sections_[s] = {capacity, capacity - problem_.loads[s], 0, 0};
  }
  for (int32_t i = 0; i < problem_.num_buffers; ++i) {
    if (problem_.pin(i) != kFree) floors_[i] = supports_[i] = problem_.pin(i);
    for (int32_t s = problem_.starts[i]; s < problem_.ends[i]; ++s) {
      if (s > problem_.starts[i]) ++spanning_[s];
      if (floors_[i] > sections_[s].room) continue;
      ++sections_[s].num_lowest;
      sections_[s].lowest ^= i;
    }
  }
  for (size_t s = 0; s < sections_.size(); ++s) {
    if (sections_[s].num_lowest == 0) return false;
    if (sections_[s].num_lowest == 1) enqueue(static_cast<int32_t>(s));
  }
  for (int32_t i = 0; i < problem_.num_buffers; ++i) {
    // The first twin raises the second, that the third, and so on.
    const int32_t twin = next_twin_[i];
    const int64_t top = floors_[i] + problem_.sizes[i];
    if (twin >= 0 && floors_[twin] < top && !raise_floor(twin, top)) return false;
  }
  return propagate();
}

Verdict BranchAndBound::solve(Part part) {
  while (part.left < part.right && is_done(part.left)) ++part.left;
  while (part.left < part.right && is_done(part.right - 1)) --part.right;
  if (part.left == part.right) return Verdict::kFits;
  bool placed = false;
  if (!place_spanning(part, placed)) return Verdict::kNone;
  if (!placed) return branch(part);
  if (!propagate()) return Verdict::kNone;
  return solve_pieces(part, part.left, part.right);
}

// The part as one, or, where nothing unplaced spans a section boundary in (first_cut, last_cut) any more,
// piece by piece, the tightest first. A piece that was solved stays solved: the pieces do not touch each
// other.
Verdict BranchAndBound::solve_pieces(Part part, int32_t first_cut, int32_t last_cut) {
  int32_t cut = first_cut + 1;
  while (cut < last_cut && spanning_[cut] > 0) ++cut;
  if (cut >= last_cut) return solve(part);
  std::vector<std::pair<int64_t, Part>> pieces;
  int32_t left = part.left;
  const auto add_piece = [&](int32_t right) {
    int64_t least_room = kOutOfReach;
    for (int32_t s = left; s < right; ++s) {
      if (!is_done(s)) least_room = std::min(least_room, sections_[s].room);
    }
    if (least_room < kOutOfReach) pieces.emplace_back(least_room, Part{left, right});
    left = right;
  };
  for (; cut < last_cut; ++cut) {
    if (spanning_[cut] == 0) add_piece(cut);
  }
  add_piece(part.right);
  std::sort(pieces.begin(), pieces.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : a.second.left < b.second.left;
  });
  for (const auto& piece : pieces) {
    const Verdict verdict = solve(piece.second);
    if (verdict != Verdict::kFits) return verdict;
  }
  return Verdict::kFits;
}

Verdict BranchAndBound::branch(Part part) {
  const size_t num_unsupported = unsupported_.size();
  Verdict verdict = Verdict::kNone;
  while (true) {
    ++num_nodes_;
    num_raises_ = 0;
    most_placed_ = std::max(most_placed_, num_placed_);
    if (num_nodes_ - most_placed_ >= dead_end_limit_ || is_stopped()) {
      verdict = Verdict::kUnknown;
      break;
    }
    int32_t buffer = choose(part);
    // Go down to a buffer beneath which no other fits: each is below the one before, so this ends.
    auto [top, neighbour] = lowest_neighbour(buffer);
    while (top <= floors_[buffer]) {
      buffer = neighbour;
      std::tie(top, neighbour) = lowest_neighbour(buffer);
    }
    if (floors_[buffer] == supports_[buffer]) {
      const size_t mark = trail_.size();
      if (place(buffer) && propagate() && propagate_unsupported()) {
        verdict = solve_pieces(part, problem_.starts[buffer], problem_.ends[buffer]);
        if (verdict != Verdict::kNone) break;
      }
      undo(mark);
      num_raises_ = 0;
    }
    // Not on what is placed, so on what is not.
    unsupported_.push_back(buffer);
    watched_[buffer] = neighbour;
    if (!raise_floor(buffer, top) || !propagate() || !propagate_unsupported()) break;
  }
  unsupported_.resize(num_unsupported);
  return verdict;
}

// A buffer of the part that is not placed yet; there must be one.
int32_t BranchAndBound::choose(Part part) {
  const auto is_better = [&](int32_t a, int32_t b) {
    return b < 0 || floors_[a] < floors_[b] || (floors_[a] == floors_[b] && (*ranks_)[a] < (*ranks_)[b]);
  };
  int32_t chosen = -1;
  if (branch_on_ == BranchOn::kLowestFloor) {
    work_ += problem_.num_buffers;
    for (int32_t i = 0; i < problem_.num_buffers; ++i) {
      if (problem_.starts[i] < part.left || problem_.starts[i] >= part.right) continue;
      if (is_unplaced(i) && is_better(i, chosen)) chosen = i;
    }
    return chosen;
  }
  const int32_t section = choose_section(part);
  work_ += part.right - part.left;
  for (int32_t i = first_in_section_[section]; i < first_in_section_[section + 1]; ++i) {
    if (is_better(in_section_[i], chosen)) chosen = in_section_[i];
  }
  return chosen;
}

int32_t BranchAndBound::choose_section(Part part) const {
  int32_t chosen = -1;
  double best = 0;
  for (int32_t s = part.left; s < part.right; ++s) {
    if (is_done(s)) continue;
    const Section& section = sections_[s];
    const auto unplaced = static_cast<double>(section.ceiling - section.room);
    double score = unplaced;
    if (branch_on_ == BranchOn::kFewestChoices) {
      score = unplaced / static_cast<double>(section.ceiling) - section.num_lowest;
    } else if (branch_on_ == BranchOn::kFailures) {
      score = (failures_[s] / failure_weight_ + kUntriedFailures) / section.num_lowest;
    }
    if (chosen < 0 || score > best) {
      chosen = s;
      best = score;
    }
  }
  return chosen;
}

std::pair<int64_t, int32_t> BranchAndBound::lowest_neighbour(int32_t buffer) {
  work_ += first_neighbour_[buffer + 1] - first_neighbour_[buffer];
  int64_t lowest = kOutOfReach;
  int32_t which = -1;
  for (int32_t j = first_neighbour_[buffer]; j < first_neighbour_[buffer + 1]; ++j) {
    const int64_t top = floors_[neighbours_[j]] + problem_.sizes[neighbours_[j]];
    if (top < lowest) {
      lowest = top;
      which = neighbours_[j];
    }
  }
  return {lowest, which};
}

// On its support. All unplaced neighbours will be above it.
bool BranchAndBound::place(int32_t buffer) {
  const int64_t offset = floors_[buffer];
  const int64_t size = problem_.sizes[buffer];
  trail_.push_back({buffer, Kind::kPlaced, offset, supports_[buffer]});
  mergeable_ = trail_.size();
  ++num_placed_;
  offsets_[buffer] = offset;
  floors_[buffer] = supports_[buffer] = kOutOfReach;
  int32_t failed = -1;
  for (int32_t s = problem_.starts[buffer]; s < problem_.ends[buffer]; ++s) {
    Section& section = sections_[s];
    saved_counts_.push_back({section.num_lowest, section.lowest});
    if (s > problem_.starts[buffer]) --spanning_[s];
    if (offset <= section.room) {
      --section.num_lowest;
      section.lowest ^= buffer;
    }
    const int64_t old_room = section.room;
    section.room += size;
    if (is_done(s)) continue;
    work_ += first_in_section_[s + 1] - first_in_section_[s];
    for (int32_t i = first_in_section_[s]; i < first_in_section_[s + 1]; ++i) {
      const int64_t floor = floors_[in_section_[i]];
      if (floor > old_room && floor <= section.room) {
        ++section.num_lowest;
        section.lowest ^= in_section_[i];
      }
    }
    if (section.num_lowest == 0) failed = s;
    if (section.num_lowest == 1) enqueue(s);
  }
  if (failed >= 0) return fail(failed);
  const int64_t top = offset + size;
  for (int32_t j = first_neighbour_[buffer]; j < first_neighbour_[buffer + 1]; ++j) {
    if (supports_[neighbours_[j]] < top && !raise_support(neighbours_[j], top)) return false;
  }
  return true;
}

// A buffer that is alive in all sections of a part may as well be on top of all others of the part: in any
// placement, move it there and what was above it down by its size. That needs every offset to be allowed.
bool BranchAndBound::place_spanning(Part part, bool& placed) {
  if (problem_.has_pins() || !problem_.alignments.empty()) return true;
  // From the last to the first, so that of twins the upper comes first.
  for (int32_t i = first_in_section_[part.left + 1]; i-- > first_in_section_[part.left];) {
    const int32_t buffer = in_section_[i];
    if (!is_unplaced(buffer) || problem_.ends[buffer] < part.right) continue;
    placed = true;
    if (!place_on_top(buffer)) return false;
  }
  return true;
}

bool BranchAndBound::place_on_top(int32_t buffer) {
  const int64_t size = problem_.sizes[buffer];
  const int64_t floor = floors_[buffer];
  trail_.push_back({buffer, Kind::kPlacedOnTop, floor, supports_[buffer]});
  mergeable_ = trail_.size();
  ++num_placed_;
  floors_[buffer] = supports_[buffer] = kOutOfReach;
  int32_t failed = -1;
  for (int32_t s = problem_.starts[buffer]; s < problem_.ends[buffer]; ++s) {
    Section& section = sections_[s];
    section.ceiling -= size;
    if (s > problem_.starts[buffer]) --spanning_[s];
    if (floor <= section.room) {
      --section.num_lowest;
      section.lowest ^= buffer;
    }
    if (section.num_lowest == 0 && !is_done(s)) failed = s;
    if (section.num_lowest == 1) enqueue(s);
  }
  offsets_[buffer] = sections_[problem_.starts[buffer]].ceiling;
  return failed < 0 || fail(failed);
}

bool BranchAndBound::raise_support(int32_t buffer, int64_t support) {
  if (problem_.pin(buffer) != kFree) return fail(problem_.starts[buffer]);
  support = align_up(support, problem_.alignment(buffer));
  record_raise(buffer);
  supports_[buffer] = support;
  return floors_[buffer] >= support || raise_floor(buffer, support);
}

bool BranchAndBound::raise_floor(int32_t buffer, int64_t floor) {
  const int64_t size = problem_.sizes[buffer];
  const int64_t ceiling = sections_[problem_.starts[buffer]].ceiling;
  if (floor > ceiling - size || problem_.pin(buffer) != kFree) return fail(problem_.starts[buffer]);
  floor = align_up(floor, problem_.alignment(buffer));
  const int64_t old_floor = floors_[buffer];
  record_raise(buffer);
  floors_[buffer] = floor;
  ++num_raises_;
  work_ += problem_.width(buffer);
  int32_t failed = -1;
  for (int32_t s = problem_.starts[buffer]; s < problem_.ends[buffer]; ++s) {
    Section& section = sections_[s];
    if (old_floor > section.room) continue;
    if (floor > section.room) {
      --section.num_lowest;
      section.lowest ^= buffer;
      if (section.num_lowest == 0) failed = s;
    }
    if (section.num_lowest == 1) enqueue(s);
  }
  if (failed >= 0) return fail(failed);
  const int32_t twin = next_twin_[buffer];
  return twin < 0 || floors_[twin] >= floor + size || raise_floor(twin, floor + size);
}

void BranchAndBound::enqueue(int32_t section) {
  if (queued_[section]) return;
  queued_[section] = 1;
  queue_.push_back(section);
}

void BranchAndBound::clear_queue() {
  for (int32_t queued : queue_) queued_[queued] = 0;
  queue_.clear();
}

bool BranchAndBound::is_stopped() {
  if (work_ >= next_clock_) {
    next_clock_ = work_ + kWorkPerClock;
    stopped_ = stopped_ || budget_->spent();
  }
  return stopped_;
}

bool BranchAndBound::propagate() {
  while (!queue_.empty()) {
    if (num_raises_ > max_raises_ || is_stopped()) {
      clear_queue();
      return !stopped_;
    }
    const int32_t section = queue_.back();
    queue_.pop_back();
    queued_[section] = 0;
    if (sections_[section].num_lowest == 1 && !propagate_section(section)) return false;
  }
  return true;
}

// Where only one buffer can be the lowest, all others are above it; perhaps only one can be the lowest of
// those.
bool BranchAndBound::propagate_section(int32_t section) {
  items_.clear();
  work_ += first_in_section_[section + 1] - first_in_section_[section];
  for (int32_t i = first_in_section_[section]; i < first_in_section_[section + 1]; ++i) {
    if (is_unplaced(in_section_[i])) items_.push_back({floors_[in_section_[i]], in_section_[i]});
  }
  std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) {
    return a.floor != b.floor ? a.floor < b.floor : a.buffer < b.buffer;
  });
  int64_t room = sections_[section].room;
  for (size_t i = 0; i < items_.size(); ++i) {
    if (items_[i].floor > room) return fail(section);
    if (i + 1 == items_.size() || items_[i + 1].floor <= room) break;
    const int64_t top = items_[i].floor + problem_.sizes[items_[i].buffer];
    for (size_t j = i + 1; j < items_.size() && items_[j].floor < top; ++j) {
      items_[j].floor = top;
      // It may be above already, as the twin of one that was just raised.
      if (floors_[items_[j].buffer] < top && !raise_floor(items_[j].buffer, top)) return false;
    }
    room += problem_.sizes[items_[i].buffer];
  }
  return true;
}

// What must lie on an unplaced neighbour is not below the lowest of them.
bool BranchAndBound::propagate_unsupported() {
  bool changed = true;
  while (changed) {
    changed = false;
    for (int32_t buffer : unsupported_) {
      const int64_t floor = floors_[buffer];
      if (!is_unplaced(buffer) || floor == supports_[buffer]) continue;
      if (num_raises_ > max_raises_ || is_stopped()) return !stopped_;
      const int32_t watched = watched_[buffer];
      if (watched >= 0 && floors_[watched] + problem_.sizes[watched] <= floor) continue;
      const auto [top, neighbour] = lowest_neighbour(buffer);
      watched_[buffer] = neighbour;
      if (top <= floor) continue;
      if (!raise_floor(buffer, top) || !propagate()) return false;
      changed = true;
    }
  }
  return true;
}

// Always false: a branch is dead, and this section is why.
bool BranchAndBound::fail(int32_t section) {
  clear_queue();
  failure_weight_ *= kFailureGrowth;
  failures_[section] += failure_weight_;
  if (failure_weight_ > kFailureLimit) {
    for (double& failures : failures_) failures /= failure_weight_;
    failure_weight_ = 1;
  }
  return false;
}

// What a raise of this buffer has to restore. One record is enough for all its raises since the last
// placement.
void BranchAndBound::record_raise(int32_t buffer) {
  const size_t last = raise_of_[buffer];
  if (last >= mergeable_ && last < trail_.size() && trail_[last].buffer == buffer) return;
  if (trail_.size() >= kMaxTrail) stopped_ = true;
  raise_of_[buffer] = trail_.size();
  trail_.push_back({buffer, Kind::kRaised, floors_[buffer], supports_[buffer]});
}

void BranchAndBound::undo(size_t mark) {
  for (; trail_.size() > mark; trail_.pop_back()) {
    const Change& change = trail_.back();
    switch (change.kind) {
      case Kind::kRaised:
        undo_raise(change.buffer, change.old_floor);
        break;
      case Kind::kPlaced:
        --num_placed_;
        undo_place(change.buffer);
        break;
      case Kind::kPlacedOnTop:
        --num_placed_;
        undo_place_on_top(change.buffer, change.old_floor);
        break;
    }
    floors_[change.buffer] = change.old_floor;
    supports_[change.buffer] = change.old_support;
  }
  mergeable_ = mark;
}

void BranchAndBound::undo_raise(int32_t buffer, int64_t old_floor) {
  const int64_t floor = floors_[buffer];
  if (floor == old_floor) return;
  for (int32_t s = problem_.starts[buffer]; s < problem_.ends[buffer]; ++s) {
    Section& section = sections_[s];
    if (old_floor <= section.room && floor > section.room) {
      ++section.num_lowest;
      section.lowest ^= buffer;
    }
  }
}

void BranchAndBound::undo_place(int32_t buffer) {
  for (int32_t s = problem_.ends[buffer]; s-- > problem_.starts[buffer];) {
    Section& section = sections_[s];
    if (s > problem_.starts[buffer]) ++spanning_[s];
    section.room -= problem_.sizes[buffer];
    section.num_lowest = saved_counts_.back().num_lowest;
    section.lowest = saved_counts_.back().lowest;
    saved_counts_.pop_back();
  }
}

void BranchAndBound::undo_place_on_top(int32_t buffer, int64_t old_floor) {
  for (int32_t s = problem_.starts[buffer]; s < problem_.ends[buffer]; ++s) {
    Section& section = sections_[s];
    section.ceiling += problem_.sizes[buffer];
    if (s > problem_.starts[buffer]) ++spanning_[s];
    if (old_floor <= section.room) {
      ++section.num_lowest;
      section.lowest ^= buffer;
    }
  }
}

}  // namespace memomalloc::planner
