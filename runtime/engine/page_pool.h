// The pages of the KV cache as rank 0 deals them: who uses which, and what is in those that can be found
// again. Pure bookkeeping, called by the scheduler; page numbers mean the same memory on every rank.
//
// Only full pages are shared, and a full page is never written, so nothing is ever copied. A page's content
// is named by a PrefixId: the tokens of this page and of all before it. Names are compared token by token, so
// two prefixes never pass for one another.
//
// A page that nobody uses is dealt again only when all steps that were launched before its release are done;
// one whose content has a name is dealt last (the longest unused first) and can be found until then.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

namespace tandem {

/// A prefix of whole pages of tokens. 0: the empty one. Never given twice.
using PrefixId = uint64_t;
inline constexpr PrefixId kNoPrefix = 0;

class PagePool {
 public:
  PagePool(int64_t n_pages, int64_t page_tokens);

  int64_t n_pages() const { return static_cast<int64_t>(pages_.size()); }
  int64_t page_tokens() const { return page_tokens_; }

  /// The steps' life: a launched one may read and write the pages that were in use until then.
  void note_launch() { ++n_launched_; }
  void note_collect() { ++n_collected_; }
  uint64_t n_launched() const { return n_launched_; }
  uint64_t n_collected() const { return n_collected_; }

  /// A page for one user; −1 where there is none.
  int32_t take();
  /// One more user of a page whose content has a name.
  void share(int32_t page);
  /// One user fewer.
  void release(int32_t page);

  /// The page that holds `tokens` (page_tokens) behind `parent`; −1 where none does.
  int32_t find(PrefixId parent, std::span<const int32_t> tokens) const;
  /// Names the content of a page that is in use, full and from now on only read. False where another page has
  /// the same content: that one is found, not this.
  bool publish(int32_t page, PrefixId parent, std::span<const int32_t> tokens);
  /// The name of a page's content; kNoPrefix where it has none.
  PrefixId prefix(int32_t page) const { return at(page).prefix; }
  int32_t n_users(int32_t page) const { return at(page).n_users; }

  /// Pages that take() could give now, and those that it could when the steps in flight are done.
  int64_t n_available() const;
  int64_t n_unsettled() const { return n_unused() - n_available(); }
  int64_t n_unused() const { return static_cast<int64_t>(free_.size() + findable_.size()); }
  int64_t n_findable_unused() const { return static_cast<int64_t>(findable_.size()); }

  /// Ends the program where the books don't agree. Slow: for tests.
  void check() const;

 private:
  struct Page {
    int32_t n_users = 0;
    uint64_t released_at = 0;  // steps launched until then
    PrefixId prefix = kNoPrefix;
    PrefixId parent = kNoPrefix;
    std::vector<int32_t> tokens;          // of a named page
    std::list<int32_t>::iterator unused;  // of a named page without users
  };
  const Page& at(int32_t page) const;
  Page& at(int32_t page);
  bool settled(int32_t page) const { return at(page).released_at <= n_collected_; }
  void forget(int32_t page);

  int64_t page_tokens_;
  std::vector<Page> pages_;
  std::deque<int32_t> free_;                          // nothing in them; the longest free first
  std::list<int32_t> findable_;                       // named, nobody uses them; the longest unused first
  std::unordered_multimap<uint64_t, int32_t> named_;  // by a hash of parent and tokens
  PrefixId next_prefix_ = 1;
  uint64_t n_launched_ = 0;
  uint64_t n_collected_ = 0;
};

/// The pages of one sequence in order, and how far their content has names.
struct PageChain {
  std::vector<int32_t> pages;
  int64_t n_named = 0;          ///< of the first pages
  PrefixId prefix = kNoPrefix;  ///< of those
  bool names = true;            ///< false once another page had the same content: then no more are named
  int64_t n_prompt = 0;         ///< tokens, the first ones, that are computed as a prompt's

  int64_t size() const { return static_cast<int64_t>(pages.size()); }
};

}  // namespace tandem
