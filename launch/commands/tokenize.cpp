// tandem tokenize: a text's token ids as one JSON array. Needs no ranks; works on files that hold only a
// vocabulary.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "launch/command.h"
#include "launch/job.h"
#include "launch/option_parser.h"
#include "launch/options.h"
#include "launch/output.h"
#include "launch/session.h"
#include "runtime/gguf/gguf.h"
#include "runtime/text/tokenizer.h"

namespace tandem {

int tokenize_command(Job& job, const Arguments& arguments) {
  OptionParser parser("tokenize", "Print a text's token ids as a JSON array");
  ModelOptions model;
  PromptOptions prompt;
  bool no_special = false;
  parser.add_text("model,m", model.model, "FILE", "the GGUF file (required)");
  add_text_options(parser, prompt);
  parser.add_flag("no-special", no_special,
                  "add no BOS or EOS and take control tokens in the text as plain text");
  if (!parser.parse(arguments)) return 0;
  require_model(parser, model);
  require_text(parser);
  const auto tokenizer = Tokenizer::from_gguf(GgufFile::open(model.model));
  const std::vector<int32_t> ids = tokenizer->encode(prompt_text(parser, prompt), {!no_special, !no_special});
  if (job.rank() == 0) print_result(fmt::format("[{}]\n", fmt::join(ids, ", ")));
  return 0;
}

}  // namespace tandem
