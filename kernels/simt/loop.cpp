#include "loop.hpp"

namespace simt {

__thread Self self;

} // namespace simt
