// Stop strings: never shown, not even their beginnings, whatever the pieces they come in.
#include <gtest/gtest.h>

#include "runtime/engine/text_stream.h"

namespace tandem::test {
namespace {

std::string filtered(const std::string& text, const std::vector<std::string>& stops, size_t piece,
                     bool* stopped = nullptr) {
  StopFilter filter(stops);
  std::string out;
  for (size_t at = 0; at < text.size(); at += piece) out += filter.push(text.substr(at, piece));
  out += filter.finish();
  if (stopped != nullptr) *stopped = filter.stopped();
  return out;
}

TEST(StopFilter, CutsAtTheFirstStopInAnyPieces) {
  for (size_t piece = 1; piece < 12; ++piece) {
    bool stopped = false;
    EXPECT_EQ(filtered("one two END three", {"END"}, piece, &stopped), "one two ");
    EXPECT_TRUE(stopped);
    EXPECT_EQ(filtered("aaab", {"aab"}, piece, &stopped), "a");
    EXPECT_TRUE(stopped);
    EXPECT_EQ(filtered("a EN b", {"END", ""}, piece, &stopped), "a EN b");
    EXPECT_FALSE(stopped);
    EXPECT_EQ(filtered("x\nUser: hi", {"\nUser:", "hi"}, piece), "x");
    EXPECT_EQ(filtered("ends in EN", {"END"}, piece), "ends in EN");
  }
}

TEST(StopFilter, HoldsBackOnlyWhatMayBecomeAStop) {
  StopFilter filter({"abc"});
  EXPECT_EQ(filter.push("xa"), "x");
  EXPECT_EQ(filter.push("b"), "");
  EXPECT_EQ(filter.push("x"), "abx");
}

}  // namespace
}  // namespace tandem::test
