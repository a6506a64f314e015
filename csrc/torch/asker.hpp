#pragma once

#include <cstdint>
#include <string>
#include <vector>

// Who asks for a tensor, in one number: a tag of the operators that are running, outermost first. Cheap
// enough to be followed while a plan is replayed, where a request must be told from others of its size.
namespace memomalloc {

// The tag of the operators of an origin; 0 for none.
uint32_t asker_of(const std::vector<std::string>& operators);

// From now on ThreadState::asker is the tag of what runs on the calling thread. Nothing runs now, or what
// does is left out. A wrong tag costs a request its slot, and nothing else.
void follow_askers();
void stop_following_askers();

}  // namespace memomalloc
