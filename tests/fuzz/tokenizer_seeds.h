// Inputs for fuzz_tokenizer that get past the vocabulary's checks: for its test and for a corpus.
#pragma once

#include <string>
#include <vector>

namespace tandem::test {

/// In the form that fuzz_tokenizer.cpp describes. A kind's byte is its number plus eight times the score's.
inline std::vector<std::string> tokenizer_seeds() {
  const std::string spm_tokens =
      "<unk>\x0A\n<s>\x0B\n</s>\x0B\na\x09\nb\x09\nab\x11\n\u2581\x09\n\u2581"
      "a\x19\n<x>\x0C\n  \x0C";
  const std::string bpe_tokens =
      "ab\x09\nabc\x09\n\u0120"
      "a\x09\n<|im_end|>\x0B\n<|end|>\x0B\n<x>\x0C";
  const std::string merges = "a b\nab c\n\u0120 a\nb c";
  const std::string text =
      "ab abc  a\n\nb<|im_end|> <x>\u00e9\u4f60\U0001F600 12345 I'm it's\t \r\n<s>\xFF\xE2\x82 ";
  std::vector<std::string> seeds;
  for (const char flags : {'\x10', '\x12', '\x15', '\x18'}) {
    seeds.push_back(std::string("\x03\x02\x05") + flags + '\1' + spm_tokens + "\1\1" + text);
  }
  for (char pre = 0; pre < 12; ++pre) {
    std::string settings = "\x02";
    settings += pre;
    settings += "\x05\x10";
    seeds.push_back(settings + '\1' + bpe_tokens + '\1' + merges + '\1' + text);
  }
  return seeds;
}

}  // namespace tandem::test
