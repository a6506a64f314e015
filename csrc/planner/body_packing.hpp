// Bodies in one memory: where they may lie with respect to each other, first fit, and an exact search.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "planner/bodies.hpp"
#include "planner/budget.hpp"
#include "planner/random.hpp"

namespace memomalloc::planner {

// Addresses of a memory, in one line: a chunk after the other, each at a multiple of `stride`.
class AddressLine {
 public:
  // `alignment`: a multiple of all that lie there.
  AddressLine(const Memory& memory, int64_t alignment);

  // The lowest base of a body that is not below `base`.
  int64_t conform(const Body& body, int64_t base) const;
  // The highest base with which a body is within so many bytes; negative: there is none.
  int64_t highest(const Body& body, int64_t bytes) const;
  // Up to the top of a body. All chunks but the last count as whole.
  int64_t bytes(const Body& body, int64_t base) const;
  Place place(int64_t memory, int64_t base) const;
  int64_t base(const Place& place) const { return place.chunk * stride_ + place.offset; }
  int64_t bank() const { return bank_; }
  // Whether there are chunks, and which.
  int64_t chunk() const { return chunk_; }

 private:
  int64_t chunk_;
  int64_t bank_;
  int64_t stride_ = 0;
};

// Which bases two bodies may not have: the base of `second` less that of `first` is in none of the open
// intervals, and none of the ranges share a bank.
struct Relation {
  int32_t first;
  int32_t second;
  uint32_t first_interval;
  uint32_t last_interval;
  uint32_t first_banks;
  uint32_t last_banks;
};

struct OpenInterval {
  int64_t low;
  int64_t high;
};

// Of one memory and the bodies that are to lie in it, by their number in `bodies`.
class Relations {
 public:
  // More need more memory than a planner may take.
  static constexpr size_t kMaxRelations = 1'500'000;

  // Borrows the bodies. Without any relation where there would be too many.
  Relations(const Bodies& bodies, std::vector<int32_t> members, const Memory& memory);

  bool too_many() const { return too_many_; }
  int32_t num_bodies() const { return static_cast<int32_t>(members_.size()); }
  const std::vector<int32_t>& members() const { return members_; }
  const Body& body(int32_t i) const {
    return bodies_.bodies[static_cast<size_t>(members_[static_cast<size_t>(i)])];
  }
  const AddressLine& line() const { return line_; }
  const std::vector<Relation>& all() const { return relations_; }
  const std::vector<OpenInterval>& intervals() const { return intervals_; }
  const std::vector<Separation>& banks() const { return banks_; }
  const std::vector<uint32_t>& of(int32_t i) const { return of_[static_cast<size_t>(i)]; }
  // Whether two bodies with these bases keep a relation.
  bool keeps(const Relation& relation, int64_t first_base, int64_t second_base) const;
  // What no placement is below: bytes in use at one tick, the highest pin, the largest extent.
  int64_t lower_bound() const { return lower_bound_; }

 private:
  void relate(int32_t first, int32_t second, const std::vector<Separation>& separations);
  void find_lower_bound();

  const Bodies& bodies_;
  std::vector<int32_t> members_;
  AddressLine line_;
  std::vector<Relation> relations_;
  std::vector<OpenInterval> intervals_;
  std::vector<Separation> banks_;
  std::vector<std::vector<uint32_t>> of_;
  int64_t lower_bound_ = 0;
  bool too_many_ = false;
};

// Bases on the line, one for each member.
struct Packing {
  std::vector<int64_t> bases;
  int64_t bytes = 0;
};

// Places one body after the other, each at its lowest base that keeps all relations to those before. Pinned
// ones come first. None where one would end above `max_bytes`.
std::optional<Packing> first_fit(const Relations& relations, const std::vector<int32_t>& order,
                                 int64_t max_bytes);

struct PartialPacking {
  Packing packing;                // base -1: left out
  std::vector<int32_t> left_out;  // what found no room
  bool keeps_pins = false;        // the pinned ones lie where they must
};

// The same, without those that find no room.
PartialPacking first_fit_of_some(const Relations& relations, const std::vector<int32_t>& order,
                                 int64_t max_bytes);

// Exact. Each relation that is not kept is decided one way or another: above this interval and below that.
// What is decided says how far a base is above others at least, so that all have a lowest solution, aligned,
// within chunks and above banks, from which the next relation is taken that is not kept.
class RelationSearch {
 public:
  enum class Verdict { kFits, kNone, kUnknown };

  explicit RelationSearch(const Relations& relations);

  // Within so many bytes, seeing at most so many nodes. kNone is a proof.
  Verdict search(int64_t max_bytes, const std::vector<double>& priorities, int64_t max_nodes, Budget& budget);

  const Packing& packing() const { return packing_; }
  int64_t num_nodes() const { return num_nodes_; }

 private:
  // base(to) is at least base(from) + least; with banks, above those of the other.
  struct Bound {
    int32_t from;
    int32_t to;
    int64_t least;
    int64_t from_upper;  // of ranges that must not share a bank
    int64_t to_lower;
    bool banks;
  };
  struct Option {
    std::vector<Bound> bounds;
  };

  Verdict solve();
  // The options that a relation has, as far as bases allow.
  std::vector<Option> options(const Relation& relation) const;
  int64_t least_base(const Bound& bound) const;
  bool add(const Bound& bound);
  bool raise(int32_t body, int64_t base);
  bool propagate();
  void undo(size_t num_raises, const std::vector<int32_t>& bounded);

  const Relations& relations_;
  std::vector<int64_t> bases_;
  std::vector<int64_t> highest_;
  std::vector<std::vector<Bound>> bounds_;  // by the body that they are from
  std::vector<char> decided_;
  std::vector<std::pair<int32_t, int64_t>> raises_;
  std::vector<int32_t> queue_;
  std::vector<double> priorities_;
  int64_t max_nodes_ = 0;
  int64_t num_nodes_ = 0;
  int64_t num_steps_ = 0;
  bool stopped_ = false;
  Budget* budget_ = nullptr;
  Packing packing_;
};

}  // namespace memomalloc::planner
