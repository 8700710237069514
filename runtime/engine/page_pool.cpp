#include "runtime/engine/page_pool.h"

#include <algorithm>

#include "ops/core/check.h"

namespace tandem {
namespace {

uint64_t mix(uint64_t value) {
  value ^= value >> 32;
  value *= 0xd6e8feb86659fd93u;
  value ^= value >> 32;
  return value;
}

/// Where a name is looked for; equal hashes are told apart by the tokens themselves.
uint64_t hash_of(PrefixId parent, std::span<const int32_t> tokens) {
  uint64_t hash = mix(parent + 0x9e3779b97f4a7c15u);
  for (const int32_t token : tokens) hash = mix(hash + static_cast<uint32_t>(token) + 1);
  return hash;
}

}  // namespace

PagePool::PagePool(int64_t n_pages, int64_t page_tokens)
    : page_tokens_(page_tokens), pages_(static_cast<size_t>(n_pages)) {
  for (int32_t page = 0; page < n_pages; ++page) free_.push_back(page);
}

const PagePool::Page& PagePool::at(int32_t page) const {
  require(page >= 0 && page < n_pages(), "no such page", page);
  return pages_[static_cast<size_t>(page)];
}

PagePool::Page& PagePool::at(int32_t page) {
  return const_cast<Page&>(static_cast<const PagePool&>(*this).at(page));
}

int32_t PagePool::take() {
  int32_t page = -1;
  if (!free_.empty() && settled(free_.front())) {
    page = free_.front();
    free_.pop_front();
  } else if (!findable_.empty() && settled(findable_.front())) {
    page = findable_.front();
    findable_.pop_front();
    forget(page);
  } else {
    return -1;
  }
  at(page).n_users = 1;
  return page;
}

void PagePool::share(int32_t page) {
  Page& entry = at(page);
  require(entry.prefix != kNoPrefix, "a page whose content may change was shared", page);
  if (entry.n_users++ == 0) findable_.erase(entry.unused);
}

void PagePool::release(int32_t page) {
  Page& entry = at(page);
  require(entry.n_users > 0, "a page was released that nobody uses", page);
  if (--entry.n_users > 0) return;
  entry.released_at = n_launched_;
  if (entry.prefix != kNoPrefix) {
    entry.unused = findable_.insert(findable_.end(), page);
  } else {
    free_.push_back(page);
  }
}

int32_t PagePool::find(PrefixId parent, std::span<const int32_t> tokens) const {
  const auto [first, last] = named_.equal_range(hash_of(parent, tokens));
  for (auto it = first; it != last; ++it) {
    const Page& entry = at(it->second);
    if (entry.parent == parent &&
        std::equal(tokens.begin(), tokens.end(), entry.tokens.begin(), entry.tokens.end()))
      return it->second;
  }
  return -1;
}

bool PagePool::publish(int32_t page, PrefixId parent, std::span<const int32_t> tokens) {
  Page& entry = at(page);
  require(entry.n_users == 1 && entry.prefix == kNoPrefix, "only its one user names a page", page,
          entry.n_users);
  require(static_cast<int64_t>(tokens.size()) == page_tokens_, "a page is named when it is full",
          tokens.size());
  if (find(parent, tokens) >= 0) return false;
  entry.prefix = next_prefix_++;
  entry.parent = parent;
  entry.tokens.assign(tokens.begin(), tokens.end());
  named_.emplace(hash_of(parent, tokens), page);
  return true;
}

/// Takes the name from a page that nobody uses.
void PagePool::forget(int32_t page) {
  Page& entry = at(page);
  const auto [first, last] = named_.equal_range(hash_of(entry.parent, entry.tokens));
  const auto it = std::find_if(first, last, [&](const auto& named) { return named.second == page; });
  require(it != last, "a named page can't be found", page);
  named_.erase(it);
  entry.prefix = kNoPrefix;
  entry.parent = kNoPrefix;
  entry.tokens.clear();
}

int64_t PagePool::n_available() const {
  // The last ones released may still be in a launched step's hands; both lists are in the order of release.
  int64_t n_unsettled = 0;
  for (auto it = free_.rbegin(); it != free_.rend() && !settled(*it); ++it) ++n_unsettled;
  for (auto it = findable_.rbegin(); it != findable_.rend() && !settled(*it); ++it) ++n_unsettled;
  return n_unused() - n_unsettled;
}

void PagePool::check() const {
  std::vector<int> n_seen(pages_.size(), 0);
  for (const int32_t page : free_) {
    ++n_seen[static_cast<size_t>(page)];
    require(at(page).prefix == kNoPrefix, "a free page has a name", page);
  }
  for (const int32_t page : findable_) {
    ++n_seen[static_cast<size_t>(page)];
    require(at(page).prefix != kNoPrefix, "a findable page has no name", page);
  }
  size_t n_named = 0;
  for (size_t i = 0; i < pages_.size(); ++i) {
    const Page& entry = pages_[i];
    require(n_seen[i] == (entry.n_users == 0 ? 1 : 0), "a page is lost or listed twice", i, entry.n_users);
    if (entry.prefix == kNoPrefix) continue;
    ++n_named;
    require(find(entry.parent, entry.tokens) == static_cast<int32_t>(i), "a named page isn't found", i);
  }
  require(n_named == named_.size(), "names without pages", n_named, named_.size());
  require(n_collected_ <= n_launched_, "steps were collected that nobody launched", n_collected_,
          n_launched_);
}

}  // namespace tandem
