// This process as a member of the job: what it is doing, which signal has asked it to end, and how it ends
// when it can't go on. Free functions, because a process has one life; they work before, with and without MPI
// and a watchdog. Called by launch/ (handlers, endings), runtime/engine (phases, pending signals). No MPI
// calls but through the hook.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

/// Says what this rank is doing now ("load", "prompt", "decode", "idle" …; up to 8 characters), for the line
/// that names a dead rank. One relaxed store: call it freely.
void note_phase(std::string_view phase);
/// What note_phase() said last.
std::string current_phase();

/// SIGTERM, SIGINT, SIGUSR1 and (unless ignored) SIGHUP from now on ask for the end instead of ending; a
/// second SIGTERM or SIGINT ends at once with 128 + signal. SIGPIPE is ignored: a write then fails, and its
/// caller says so. System calls go on after a signal (SA_RESTART) except poll(), select() and nanosleep().
void install_signal_handlers();

/// The signal that asked any rank of this node to end, or 0. Rank 0 asks this once a step and puts the end
/// into the plan, so that all ranks leave at the same step; the program then returns signal_answer()'s code.
/// A process that has not ended within its grace is ended by its watchdog.
int pending_signal();
/// Forgets the pending signal: for a program to which SIGINT means "stop this answer". Rank 0 only.
void clear_pending_signal();

/// What a signal that asks for the end leads to.
struct SignalAnswer {
  int exit_code = 0;
  int grace_ms = 0;  ///< after which the watchdog ends a process that has not ended by itself
};
/// 128 + signal and two seconds, unless set_signal_answer() said otherwise.
SignalAnswer signal_answer(int signal);
/// For a program that can be continued, and says so by its exit code. Every rank sets the same.
void set_signal_answer(int signal, SignalAnswer answer);
/// A file that is put on the disk as soon as a signal has come, however long the step in progress takes: by
/// the watchdog, beside the thread that writes to it. −1: none (before the file is closed).
void set_checkpoint_file(int fd);
int checkpoint_file();

/// Ends every rank of the job with `exit_code` and at most one line on stderr: "tandem: LINE" where rank 0
/// says it too, else "tandem: rank R: LINE". Ranks that meet the same fault within a quarter of a second
/// share the line. Takes no locks, runs no destructors, ends within seconds even where MPI or stderr hang.
/// `exit_code` must not be 0.
[[noreturn]] void end_all_ranks(int exit_code, const std::string& line);

/// Ends this process with `exit_code` in `seconds` unless it has ended by then: before calls that can hang
/// for ever.
void arm_last_exit(int seconds, int exit_code);

/// `abort_job` ends the ranks on other nodes (MPI_Abort); null where there are none. Called by
/// end_all_ranks() on the thread that set it, never on another. `rank` is this process's in the job.
void set_job(int rank, void (*abort_job)(int exit_code));

}  // namespace tandem
