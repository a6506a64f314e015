// The reader of pickled snapshots, under sanitizers: what it makes of plain data, and that nothing in a file
// can make it do more. Pickles are written here by hand, instruction by instruction.
#include "snapshot/pickle_reader.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace memomalloc::snapshot {
namespace {

std::string text(const std::string& value) {
  return std::string("\x8c") + static_cast<char>(value.size()) + value;
}

std::string dict(const std::string& items) { return "}\x94(" + items + "u"; }

const std::string kFrame =
    dict(text("filename") + text("a.py") + text("line") + "K\x07" + text("name") + text("f"));
const std::string kEvent = dict(text("action") + text("alloc") + text("addr") + "J\x01\x02\x03\x04" +
                                text("size") + "K\x64" + text("frames") + "]\x94(" + kFrame + "e");
const std::string kBlock =
    dict(text("address") + "K\x10" + text("size") + "K\x20" + text("state") + text("inactive"));
const std::string kSegment =
    dict(text("address") + "K\x10" + text("total_size") + "K\x20" + text("blocks") + "]\x94(" + kBlock + "e");

std::string snapshot(const std::string& events, const std::string& segments) {
  return "\x80\x04" +
         dict(text("segments") + "](" + segments + "e" + text("device_traces") + "](](" + events + "ee") +
         ".";
}

void feed(PickleReader& reader, const std::string& bytes) {
  reader.feed(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

std::string refusal(const std::string& bytes) {
  PickleReader reader(1 << 26);
  try {
    feed(reader, bytes);
    reader.finish();
  } catch (const Refused& error) {
    return error.what();
  }
  return "";
}

TEST(PickleReaderTest, RowsAreFoundWhereverThePiecesEnd) {
  const std::string bytes = snapshot(kEvent + kEvent, kSegment);
  for (size_t piece = 1; piece <= bytes.size(); piece = piece * 2 + 1) {
    PickleReader reader(1 << 26);
    for (size_t at = 0; at < bytes.size(); at += piece) feed(reader, bytes.substr(at, piece));
    reader.finish();
    ASSERT_EQ(reader.events.action.size(), 2u);
    EXPECT_EQ(reader.events.address[1], 0x04030201);
    EXPECT_EQ(reader.events.size[1], 100);
    EXPECT_EQ(reader.frames.line.size(), 1u);
    EXPECT_EQ(reader.stack_ends.size(), 1u) << "equal stacks are kept once";
    EXPECT_EQ(reader.blocks.segment[0], 0);
    EXPECT_EQ(reader.num_device_traces, 1);
  }
}

TEST(PickleReaderTest, EveryPrefixIsTruncated) {
  const std::string bytes = snapshot(kEvent, kSegment);
  for (size_t size = 0; size < bytes.size(); ++size) EXPECT_NE(refusal(bytes.substr(0, size)), "") << size;
  EXPECT_EQ(refusal(bytes), "");
  EXPECT_NE(refusal(bytes + "N."), "");
}

TEST(PickleReaderTest, NothingIsCalledNamedOrBuilt) {
  for (const uint8_t code :
       {0x63, 0x52, 0x62, 0x69, 0x6f, 0x50, 0x51, 0x81, 0x82, 0x83, 0x84, 0x92, 0x93, 0x97,
        0x98, 0x96, 0x42, 0x43, 0x8e, 0x8f, 0x90, 0x91, 0x30, 0x31, 0x32, 0x53, 0xff}) {
    const std::string why = refusal(std::string("\x80\x04N") + static_cast<char>(code) + "os\nsystem\n.");
    EXPECT_NE(why.find("do not unpickle"), std::string::npos) << int{code} << ": " << why;
  }
}

TEST(PickleReaderTest, WhatIsMissingOnTheStackIsRefused) {
  for (const char* bytes :
       {"a.",     "]a.",    "(a.",   "](N(a.", "e.",     "(e.",         "]((e.", "s.",   "}s.",   "}Ns.",
        "u.",     "(u.",    "}(Nu.", "\x86.",  "N\x86.", "(N\x85\x86.", "t.",    "l.",   "(Nd.",  "\x94.",
        "q\x01.", "h\x01.", "N(.",   "NN.",    "}(]Nu.", "g5\n.",       "gx\n.", "p\n.", "Ia\n.", "g-1\n."}) {
    EXPECT_NE(refusal(bytes), "") << bytes;
  }
}

TEST(PickleReaderTest, MemoryIsBoundedByWhatWasRead) {
  // One byte each, a hundred bytes here.
  EXPECT_NE(refusal(std::string(1 << 22, '}')).find("memory"), std::string::npos);
  EXPECT_NE(refusal(std::string(1 << 23, '(')).find("memory"), std::string::npos);
  // A number far beyond those before it would need memory for all between.
  EXPECT_NE(refusal(std::string("Nr\xff\xff\xff\x7f.", 7)).find("remembers"), std::string::npos);
  EXPECT_NE(refusal(std::string("\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", 9)).find("text"), std::string::npos);
  EXPECT_NE(refusal(std::string("\x8b\xff\xff\xff\x7f", 5)).find("number"), std::string::npos);
}

TEST(PickleReaderTest, ListsOfListsOfTheSameTakeNoTime) {
  std::string bytes = "]\x94";
  for (int depth = 0; depth < 100; ++depth) {
    bytes += "]\x94(";
    for (int i = 0; i < 100; ++i) bytes += std::string("h") + static_cast<char>(depth);
    bytes += "e";
  }
  bytes += "](";
  for (int i = 0; i < 101; ++i) bytes += "h\x64";
  EXPECT_NE(refusal("\x80\x04" + bytes + "e."), "");
  std::string deep(1 << 16, ']');
  EXPECT_NE(refusal("\x80\x04" + deep + std::string((1 << 16) - 1, 'a') + "."), "");
}

TEST(PickleReaderTest, ARowThatIsListedTwiceOrChangedIsRefused) {
  // The memo counts dicts and lists: the event is number 1 of "}", its list 2, its frame 3.
  const std::string event = "}\x94(" + text("action") + text("oom") + "u";
  EXPECT_NE(refusal("\x80\x04}(" + text("device_traces") + "](](" + event + "h" + '\0' + "eeu."), "");
  EXPECT_NE(refusal("\x80\x04" + event + text("size") + "K\x01s.").find("changed"), std::string::npos);
}

TEST(PickleReaderTest, RandomBytesAreReadOrRefused) {
  std::mt19937 random(7);
  const std::string good = snapshot(kEvent + kEvent, kSegment);
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = good;
    for (int change = 0; change < 1 + round % 4; ++change) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 8);
          break;
        case 2:
          bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 40));
          break;
        default:
          bytes.insert(at, 1, "}](u.eashtq\x94\x85\x86\x87ld)N"[random() % 20]);
      }
      if (bytes.empty()) bytes = "N";
    }
    refusal(bytes);
  }
}

}  // namespace
}  // namespace memomalloc::snapshot
