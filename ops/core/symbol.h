// Functions of libraries that are loaded when the program runs.
#pragma once

#include <dlfcn.h>

namespace tandem {

/// Sets `function` to the library's function of that name. False (and null) where it has none.
template <class Function>
bool find_symbol(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace tandem
