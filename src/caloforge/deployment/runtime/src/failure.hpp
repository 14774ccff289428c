// What goes wrong inside the library; it becomes an error code before it leaves.
#pragma once

#include <stdexcept>
#include <string>

#include "caloforge/runtime.h"

namespace caloforge::runtime {

class Failure : public std::runtime_error {
public:
    Failure(cf_error error, const std::string& text) : std::runtime_error(text), code(error) {}
    const cf_error code;
};

inline void need(bool fine, const std::string& what) {
    if (!fine) throw Failure(CF_DAMAGED, what);
}

}  // namespace caloforge::runtime
