// Logging: spdlog to stderr, "tandem: text" on rank 0 and "tandem: rank 2: text" on the others. Any launch/
// code calls spdlog::info() and its like directly; other ranks than 0 say what is a warning or worse, unless
// -v is given.
#pragma once

namespace tandem {

/// Sets the logger up. `verbosity`: -1 warnings only (-q), 0 notes, 1 all (-v).
void set_up_log(int verbosity);
/// Names the rank in front of what it logs.
void set_log_rank(int rank);

}  // namespace tandem
