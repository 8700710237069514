// The seeds of fuzz_template: the real templates and the language cases of tests/golden/chat_templates.
#pragma once

#include <string>
#include <vector>

namespace tandem::test {

/// `folder` is tests/golden/chat_templates. Throws where it or its language.json can't be read.
std::vector<std::string> template_seeds(const std::string& folder);

}  // namespace tandem::test
