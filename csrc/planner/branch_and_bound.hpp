// Exact search for a placement within a capacity.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "planner/budget.hpp"
#include "planner/problem.hpp"

namespace memomalloc::planner {

enum class Verdict {
  kFits,     // a placement within the capacity was found
  kNone,     // it is proven that there is none
  kUnknown,  // the limit of dead ends or the bound of memory was reached, or the budget spent first
};

// Where a search branches next.
enum class BranchOn {
  kLowestFloor,     // the buffer that can be placed lowest
  kFullestSection,  // a buffer of the section with the most to place
  kFewestChoices,   // a buffer of the section in which the fewest can come next
  kFailures,        // a buffer of the section that failed most often for its number of choices
};

// Search trees over the canonical placements of a problem: those in which no buffer can be moved down. If
// there is a placement within a capacity there is a canonical one, and in it every buffer lies on the ground
// or on another buffer. To search only these is the idea of Moffitt, "MiniMalloc: A lightweight memory
// allocator for hardware-accelerated machine learning" (ASPLOS 2023). What differs here:
//
// - Branching is binary and local. Take a buffer whose floor (the smallest offset not excluded yet) is its
// support
//   (the top of what is placed beneath it), and beneath which no unplaced neighbour fits any more. It lies on
//   its support, or some unplaced neighbour will lie beneath it. The two cases exclude each other, so no
//   placement is met twice, and any such buffer anywhere may be taken next, where MiniMalloc goes by
//   increasing offset.
// - Each section is a machine with release dates: a buffer can be the lowest unplaced one of a section only
// if its
//   floor plus the sizes of them all is within the capacity. If none can be, this branch is dead; if one can
//   be, the others are above it, which raises their floors in other sections, and so on.
// - A buffer that spans all sections of what is left may as well lie on top of it.
// - What depends on a floor is updated when the floor changes and undone from a trail. Nothing is copied.
//
// Floors may creep: two buffers that must lie on each other raise each other by a few bytes at a time, up to
// the ceiling. So the work between two nodes is bounded, the clock is read by work and not by nodes, and what
// was raised twice since the last placement is undone by one record. Raising less than could be is always
// allowed.
class BranchAndBound {
 public:
  // Borrows the problem. Takes `memory_of` it and at most kMaxTrail records beside.
  explicit BranchAndBound(const PreparedProblem& problem);

  // One search from the start. Among equals it takes the buffer with the smallest rank. `capacity` must not
  // be below the lower bound of the problem. kNone is a proof: the whole tree was seen. The search gives up
  // where it has seen `dead_end_limit` more nodes than buffers were placed at a time: those that led no
  // further.
  Verdict search(int64_t capacity, BranchOn branch_on, const std::vector<int32_t>& ranks,
                 int64_t dead_end_limit, Budget& budget);

  // Of the last search that ended with kFits.
  const Placement& placement() const { return placement_; }

  // In bytes, in O(n): of the lists of neighbours and sections.
  static int64_t memory_of(const PreparedProblem& problem);

  int64_t num_nodes() const { return num_nodes_; }

  // How far the last search came: the most buffers that were placed at a time.
  int32_t most_placed() const { return most_placed_; }

 private:
  enum class Kind : int32_t { kRaised, kPlaced, kPlacedOnTop };
  struct Change {
    int32_t buffer;
    Kind kind;
    int64_t old_floor;
    int64_t old_support;
  };
  struct Section {
    int64_t ceiling;     // the capacity less what was placed on top
    int64_t room;        // ceiling less the sizes of its unplaced buffers
    int32_t num_lowest;  // how many of these can be the lowest: floor <= room
    int32_t lowest;      // all that can be, XORed: where there is one, this is it
  };
  // Sections [left, right) that no unplaced buffer leaves.
  struct Part {
    int32_t left;
    int32_t right;
  };
  // What a section's counts were before a buffer was placed: cheaper to keep than to count again.
  struct Counts {
    int32_t num_lowest;
    int32_t lowest;
  };
  struct Item {
    int64_t floor;
    int32_t buffer;
  };

  void find_neighbours();
  void find_twins();
  bool start(int64_t capacity);
  Verdict solve(Part part);
  Verdict solve_pieces(Part part, int32_t first_cut, int32_t last_cut);
  Verdict branch(Part part);
  int32_t choose(Part part);
  int32_t choose_section(Part part) const;
  // The lowest top that an unplaced neighbour can have, and which neighbour.
  std::pair<int64_t, int32_t> lowest_neighbour(int32_t buffer);

  // Each of these is false where the branch turns out to be dead; the caller undoes it.
  bool place(int32_t buffer);
  bool place_on_top(int32_t buffer);
  bool place_spanning(Part part, bool& placed);
  bool raise_floor(int32_t buffer, int64_t floor);
  bool raise_support(int32_t buffer, int64_t support);
  bool propagate();
  bool propagate_section(int32_t section);
  bool propagate_unsupported();
  bool fail(int32_t section);

  void enqueue(int32_t section);
  void clear_queue();
  // Whether this search has to end: reads the clock after so much work.
  bool is_stopped();
  void record_raise(int32_t buffer);
  void undo(size_t mark);
  void undo_raise(int32_t buffer, int64_t old_floor);
  void undo_place(int32_t buffer);
  void undo_place_on_top(int32_t buffer, int64_t old_floor);
  bool is_unplaced(int32_t buffer) const;
  bool is_done(int32_t section) const { return sections_[section].room == sections_[section].ceiling; }

  const PreparedProblem& problem_;
  std::vector<int32_t> first_neighbour_;   // neighbours_[first_neighbour_[i], first_neighbour_[i + 1])
  std::vector<int32_t> neighbours_;        // overlap in time
  std::vector<int32_t> first_in_section_;  // in_section_[first_in_section_[s], first_in_section_[s + 1])
  std::vector<int32_t> in_section_;        // alive in it
  std::vector<int32_t> next_twin_;         // the buffer of equal content that is to be placed above it, or -1

  BranchOn branch_on_ = BranchOn::kLowestFloor;
  const std::vector<int32_t>* ranks_ = nullptr;
  int64_t dead_end_limit_ = 0;
  int64_t num_nodes_ = 0;
  int32_t num_placed_ = 0;
  int32_t most_placed_ = 0;
  Budget* budget_ = nullptr;
  int64_t work_ = 0;        // steps of the loops over sections and neighbours, nearly all there are
  int64_t next_clock_ = 0;  // the work at which the clock is read
  int64_t num_raises_ = 0;  // since the last node
  int64_t max_raises_ = 0;  // between two nodes
  bool stopped_ = false;    // no verdict of a branch counts any more

  std::vector<int64_t> floors_;    // out of reach where placed
  std::vector<int64_t> supports_;  // out of reach where placed
  std::vector<int64_t> offsets_;   // where placed
  std::vector<Section> sections_;
  std::vector<int32_t> spanning_;  // per section: unplaced buffers alive in it and in the one before
  std::vector<Change> trail_;
  size_t mergeable_ = 0;              // the records of the trail from here on have no placement after them
  std::vector<size_t> raise_of_;      // per buffer: where its last raise is in the trail, if it still is
  std::vector<Counts> saved_counts_;  // of the sections of each placed buffer, in the order of the trail
  std::vector<int32_t> queue_;        // sections whose only lowest buffer is news
  std::vector<char> queued_;
  std::vector<int32_t> unsupported_;  // buffers that must lie on a neighbour that is still unplaced
  std::vector<int32_t> watched_;      // the lowest such neighbour when last looked for
  std::vector<Item> items_;
  std::vector<double> failures_;  // per section, kept from search to search; the later ones weigh more
  double failure_weight_ = 1;
  Placement placement_;
};

}  // namespace memomalloc::planner
