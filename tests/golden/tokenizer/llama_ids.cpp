// Prints llama.cpp's ids of texts, for generate_ids.py. Not part of the build: it needs llama.cpp's sources
// (-I its include and ggml/include folders) and libraries (llama, ggml, ggml-cpu, ggml-base; -fopenmp).
//   llama_ids FILE.gguf < lines "0|1 hex"    0: neither BOS nor special tokens of the text, 1: both
// One JSON array a line.
#include <llama.h>

#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 2) return 64;
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  llama_model* model = llama_model_load_from_file(argv[1], params);
  if (model == nullptr) return 65;
  for (std::string line; std::getline(std::cin, line);) {
    const bool special = line[0] == '1';
    std::string text;
    for (size_t i = 2; i + 1 < line.size(); i += 2) {
      text += static_cast<char>(std::stoi(line.substr(i, 2), nullptr, 16));
    }
    std::vector<llama_token> ids(text.size() + 8);
    ids.resize(static_cast<size_t>(llama_tokenize(llama_model_get_vocab(model), text.data(),
                                                  static_cast<int32_t>(text.size()), ids.data(),
                                                  static_cast<int32_t>(ids.size()), special, special)));
    std::printf("[");
    for (size_t i = 0; i < ids.size(); ++i) std::printf("%s%d", i == 0 ? "" : ",", ids[i]);
    std::printf("]\n");
  }
  llama_model_free(model);
  return 0;
}
