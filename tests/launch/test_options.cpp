// The flags: names, ranges, precedence, and that each wrong value is told in one line that names it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>

#include "launch/option_parser.h"
#include "launch/options.h"
#include "launch/session.h"
#include "ops/core/error.h"

namespace tandem {
namespace {

/// A parser with every shared option, and its targets.
struct All {
  OptionParser parser{"run", "Generate text"};
  ModelOptions model;
  SamplingOptions sampling;
  PromptOptions prompt;
  All() {
    add_model_options(parser, model);
    add_sampling_options(parser, sampling);
    add_prompt_options(parser, prompt);
  }
};

class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

std::string refusal(const Arguments& arguments) {
  All all;
  try {
    all.parser.parse(arguments);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_EQ(error.hint(), "see `tandem run --help`");
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "accepted";
}

TEST(Options, defaults_stay) {
  All all;
  EXPECT_TRUE(all.parser.parse({}));
  EXPECT_EQ(all.model, ModelOptions{});
  EXPECT_EQ(all.sampling.seed, std::nullopt);
  EXPECT_EQ(all.prompt.n_predict, -1);
  EXPECT_FALSE(all.parser.given("n-predict"));
}

TEST(Options, all_names_of_llama_cpp) {
  All all;
  EXPECT_TRUE(all.parser.parse({"-m",
                                "a.gguf",
                                "-p",
                                "--help me -n",
                                "-n",
                                "-1",
                                "-c",
                                "4096",
                                "-b",
                                "64",
                                "-t4",
                                "-s",
                                "18446744073709551615",
                                "--temp",
                                "0.5",
                                "--top-k",
                                "1",
                                "--top-p",
                                "0.5",
                                "--min-p",
                                "0",
                                "--repeat-penalty",
                                "1.1",
                                "--repeat-last-n",
                                "-1",
                                "--frequency-penalty",
                                "-0.5",
                                "--presence-penalty=2",
                                "--ignore-eos",
                                "--stop",
                                "a",
                                "--stop",
                                "-b",
                                "--logit-bias",
                                "15043+1.5",
                                "-l",
                                "7-inf",
                                "--split",
                                "3,1.5",
                                "-ctk",
                                "f32",
                                "--cache-type-v",
                                "f32",
                                "--progress",
                                "off",
                                "-q"}));
  EXPECT_EQ(all.model.model, "a.gguf");
  EXPECT_EQ(all.prompt.prompt, "--help me -n");
  EXPECT_EQ(all.prompt.n_predict, -1);
  EXPECT_EQ(all.model.n_ctx, 4096);
  EXPECT_EQ(all.model.n_batch, 64);
  EXPECT_EQ(all.model.n_threads, 4);
  EXPECT_EQ(all.sampling.seed, UINT64_MAX);
  EXPECT_EQ(all.sampling.temperature, 0.5);
  EXPECT_EQ(all.sampling.top_k, 1);
  EXPECT_EQ(all.sampling.top_p, 0.5);
  EXPECT_EQ(all.sampling.min_p, 0);
  EXPECT_EQ(all.sampling.repeat_penalty, 1.1);
  EXPECT_EQ(all.sampling.repeat_last_n, -1);
  EXPECT_EQ(all.sampling.frequency_penalty, -0.5);
  EXPECT_EQ(all.sampling.presence_penalty, 2);
  EXPECT_TRUE(all.sampling.ignore_eos);
  EXPECT_EQ(all.prompt.stop, (std::vector<std::string>{"a", "-b"}));
  ASSERT_EQ(all.sampling.logit_bias.size(), 2U);
  EXPECT_EQ(all.sampling.logit_bias[0], (std::pair<int, double>{15043, 1.5}));
  EXPECT_EQ(all.sampling.logit_bias[1], (std::pair<int, double>{7, -INFINITY}));
  EXPECT_EQ(all.model.split, (std::vector<double>{3, 1.5}));
  EXPECT_EQ(all.model.cache_type_k, "f32");
  EXPECT_EQ(all.model.cache_type_v, "f32");
  EXPECT_EQ(all.model.progress, "off");
}

TEST(Options, flag_beats_environment_beats_default) {
  const Variable threads("TANDEM_THREADS", "3");
  const Variable context("TANDEM_CTX_SIZE", "100");
  const Variable stop("TANDEM_STOP", "env");
  const Variable eos("TANDEM_IGNORE_EOS", "1");
  All all;
  EXPECT_TRUE(all.parser.parse({"-c", "200", "-c", "300", "--stop", "flag"}));
  EXPECT_EQ(all.model.n_threads, 3);
  EXPECT_EQ(all.model.n_ctx, 300);
  EXPECT_EQ(all.prompt.stop, std::vector<std::string>{"flag"});
  EXPECT_TRUE(all.sampling.ignore_eos);
  EXPECT_TRUE(all.parser.given("threads"));
}

TEST(Options, wrong_environment_is_named) {
  const Variable threads("TANDEM_THREADS", "many");
  EXPECT_EQ(refusal({}), "TANDEM_THREADS=many: not a whole number");
  EXPECT_EQ(refusal({"-t", "2"}), "accepted");
}

TEST(Options, wrong_values_are_named) {
  EXPECT_EQ(refusal({"-t", "-1"}), "--threads=-1: not within 0 to 4096");
  EXPECT_EQ(refusal({"-t", "1.5"}), "--threads=1.5: not a whole number");
  EXPECT_EQ(refusal({"-t", " 1"}), "--threads= 1: not a whole number");
  EXPECT_EQ(refusal({"-n", "99999999999999999999"}),
            "--n-predict=99999999999999999999: not within -1 to 1073741824");
  EXPECT_EQ(refusal({"-n", "5000000000"}), "--n-predict=5000000000: not within -1 to 1073741824");
  EXPECT_EQ(refusal({"-n", "-2"}), "--n-predict=-2: not within -1 to 1073741824");
  EXPECT_EQ(refusal({"-b", "-1"}), "--batch-size=-1: not within 0 to 1048576");
  EXPECT_EQ(refusal({"-b", "0"}), "accepted");
  EXPECT_EQ(refusal({"--temp", "nan"}), "--temp=nan: not a number");
  EXPECT_EQ(refusal({"--temp", "-0.1"}), "--temp=-0.1: not within 0 to 1000");
  EXPECT_EQ(refusal({"--temp", "inf"}), "--temp=inf: not within 0 to 1000");
  EXPECT_EQ(refusal({"--temp", "1e999"}), "--temp=1e999: not within 0 to 1000");
  EXPECT_EQ(refusal({"--top-p", "1.01"}), "--top-p=1.01: not within 0 to 1");
  EXPECT_EQ(refusal({"--min-p", "x"}), "--min-p=x: not a number");
  EXPECT_EQ(refusal({"--repeat-penalty", "0"}), "--repeat-penalty=0: not within 0.001 to 1000");
  EXPECT_EQ(refusal({"-s", "-2"}), "--seed=-2: not -1 or a whole number below 2^64");
  EXPECT_EQ(refusal({"-s", "18446744073709551616"}),
            "--seed=18446744073709551616: not -1 or a whole number below 2^64");
  EXPECT_EQ(refusal({"-ctk", "q8"}), "--cache-type-k=q8: not one of f16|f32|q8_0|q4_0");
  EXPECT_NE(refusal({"--split", "3,,1"}).find("--split=3,,1: not a list"), std::string::npos);
  EXPECT_NE(refusal({"--split", "3,nan"}).find("not a list"), std::string::npos);
  EXPECT_NE(refusal({"--split", "3,-1"}).find("not a list"), std::string::npos);
  EXPECT_NE(refusal({"--split", "0,0"}).find("above 0"), std::string::npos);
  EXPECT_NE(refusal({"--logit-bias", "5"}).find("not TOKEN+BIAS"), std::string::npos);
  EXPECT_NE(refusal({"--logit-bias", "-5+1"}).find("not TOKEN+BIAS"), std::string::npos);
  EXPECT_NE(refusal({"--logit-bias", "5+nan"}).find("the bias"), std::string::npos);
  EXPECT_NE(refusal({"--logit-bias", "5+inf"}).find("the bias"), std::string::npos);
  EXPECT_NE(refusal({"--stop", ""}), "accepted");
}

TEST(Options, wrong_flags_are_named) {
  EXPECT_EQ(refusal({"--nope"}), "unrecognised option '--nope'");
  EXPECT_EQ(refusal({"--thread", "2"}), "unrecognised option '--thread'");
  EXPECT_EQ(refusal({"word"}), "unexpected argument 'word'");
  EXPECT_EQ(refusal({"-m"}), "-m needs a value");
  EXPECT_NE(refusal({"--ignore-eos=3"}), "accepted");
}

TEST(Options, positional_word) {
  std::string file;
  OptionParser parser("inspect", "Show a model");
  parser.add_positional("FILE", file, "the model");
  EXPECT_TRUE(parser.parse({"a.gguf"}));
  EXPECT_EQ(file, "a.gguf");
  OptionParser twice("inspect", "Show a model");
  twice.add_positional("FILE", file, "the model");
  EXPECT_THROW(twice.parse({"a", "b"}), Error);
}

TEST(Options, help_names_every_option_and_default) {
  All all;
  const std::string help = all.parser.help();
  for (const char* text :
       {"-m, --model FILE", "-c, --ctx-size N", "-ctk, --cache-type-k f16|f32|q8_0|q4_0", "(default 0.95)",
        "--stop TEXT", "usage: tandem run [options]", "TANDEM_CTX_SIZE"}) {
    EXPECT_NE(help.find(text), std::string::npos) << text << " in\n" << help;
  }
}

TEST(Options, batch_size_is_asked_for_or_suits_the_device) {
  const SessionOptions automatic = session_options(ModelOptions{});
  EXPECT_EQ(batch_tokens_of(automatic.batch_tokens, false), 512);
  EXPECT_EQ(batch_tokens_of(automatic.batch_tokens, true), 2048);
  ModelOptions asked;
  asked.n_batch = 7;
  EXPECT_EQ(batch_tokens_of(session_options(asked).batch_tokens, false), 7);
  EXPECT_EQ(batch_tokens_of(session_options(asked).batch_tokens, true), 7);
}

TEST(Options, split_must_fit_the_ranks) {
  ModelOptions options;
  EXPECT_NO_THROW(check_split(options.split, 3));
  options.split = {3, 1};
  EXPECT_NO_THROW(check_split(options.split, 2));
  EXPECT_THROW(check_split(options.split, 3), Error);
}

TEST(Options, prompt_from_text_or_file) {
  const std::string path = testing::TempDir() + "prompt_" + std::to_string(getpid()) + ".txt";
  std::ofstream(path, std::ios::binary) << "two\nlines\n\n";
  All from_file;
  from_file.parser.parse({"-f", path});
  EXPECT_EQ(prompt_text(from_file.parser, from_file.prompt), "two\nlines\n");
  unlink(path.c_str());
  try {
    prompt_text(from_file.parser, from_file.prompt);
    FAIL() << "a missing file was read";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::io);
    EXPECT_NE(std::string(error.what()).find(path), std::string::npos);
  }
  EXPECT_EQ(refusal({"-f", path, "-p", "x"}), "give either --prompt or --file");
  All none;
  none.parser.parse({});
  EXPECT_THROW(prompt_text(none.parser, none.prompt), Error);
  All empty;
  empty.parser.parse({"-p", ""});
  EXPECT_EQ(prompt_text(empty.parser, empty.prompt), "");
}

TEST(Options, a_flag_beats_the_variable_of_another_way_to_say_it) {
  const Variable variable("TANDEM_FILE", "/nowhere");
  All all;
  all.parser.parse({"-p", "x"});
  EXPECT_EQ(prompt_text(all.parser, all.prompt), "x");
  All by_variable;
  by_variable.parser.parse({});
  EXPECT_EQ(by_variable.prompt.file, "/nowhere");
}

TEST(Options, settings_are_what_ranks_must_agree_on) {
  const Variable variable("TANDEM_CTX_SIZE", "64");
  All all;
  all.parser.parse({"-m", "f", "-t", "3", "-v", "--split", "3,1", "--split", "1,3", "-r", "a", "-r", "b"});
  std::vector<std::string> settings = all.parser.settings();
  EXPECT_TRUE(settings[0].starts_with("`tandem run` ")) << settings[0];
  settings.erase(settings.begin());
  EXPECT_EQ(settings, (std::vector<std::string>{"--ctx-size=64", "--split=1,3", "--stop=a", "--stop=b"}));
}

}  // namespace
}  // namespace tandem
