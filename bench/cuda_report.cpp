#include "cuda_report.h"

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <vector>

#include "ops/core/error.h"

namespace tandem::cuda {

double graph_us(const Stream& stream, const std::function<void()>& record) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  record();
  check(cudaStreamEndCapture(stream.get(), &graph));
  check(cudaGraphInstantiate(&exec, graph, 0));
  const Event begin;
  const Event end;
  std::vector<double> times;
  for (int i = 0; i < 10; ++i) {
    begin.record(stream);
    check(cudaGraphLaunch(exec, stream.get()));
    end.record(stream);
    stream.synchronize();
    if (i > 0) times.push_back(Event::elapsed_us(begin, end));
  }
  check(cudaGraphExecDestroy(exec));
  check(cudaGraphDestroy(graph));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

std::string driver_version() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string word;
  while (file >> word) {
    if (word.find_first_not_of("0123456789.") == std::string::npos &&
        std::count(word.begin(), word.end(), '.') >= 1)
      return word;
  }
  return "";
}

std::string device_name() {
  int device = 0;
  cudaDeviceProp properties{};
  check(cudaGetDevice(&device));
  check(cudaGetDeviceProperties(&properties, device));
  return properties.name;
}

std::string utc_date() {
  char date[16] = "";
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof(date), "%Y-%m-%d", std::gmtime(&now));
  return date;
}

std::string format(const char* how, ...) {
  std::array<char, 1024> text{};
  std::va_list values;
  va_start(values, how);
  std::vsnprintf(text.data(), text.size(), how, values);
  va_end(values);
  return text.data();
}

Report::Report(const std::string& commit) {
  int driver_api = 0;
  check(cudaDriverGetVersion(&driver_api));
  std::printf("{\n  \"commit\": \"%s\",\n  \"date\": \"%s\",\n  \"driver\": \"%s\",\n  \"device\": \"%s\"",
              commit.c_str(), utc_date().c_str(), driver_version().c_str(), device_name().c_str());
  fact("cuda_driver_api", std::to_string(driver_api));
  fact("cuda_runtime", std::to_string(CUDART_VERSION));
}

void Report::fact(const char* name, const std::string& json) {
  std::printf(",\n  \"%s\": %s", name, json.c_str());
}

void Report::result(const std::string& fields) {
  if (!in_results_) std::printf(",\n  \"results\": [\n");
  in_results_ = true;
  std::printf("%s    {%s}", first_ ? "" : ",\n", fields.c_str());
  first_ = false;
}

void Report::end() {
  std::printf(in_results_ ? "\n  ]\n}\n" : "\n}\n");
}

int bench_main(int argc, char** argv, const char* name,
               const std::function<void(const BenchArguments&)>& run) {
  BenchArguments arguments;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      arguments.quick = true;
    } else if (std::strcmp(argv[i], "--commit") == 0 && i + 1 < argc) {
      arguments.commit = argv[++i];
    } else {
      std::fprintf(stderr, "usage: %s [--quick] [--commit ID]\n", name);
      return static_cast<int>(ExitCode::usage);
    }
  }
  try {
    run(arguments);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}

}  // namespace tandem::cuda
